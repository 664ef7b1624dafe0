"""Pictures of one's own: what `--dataset folder` finds out about them, and that it travels to the other programs."""

import json
import shutil

import mindspore as ms
import numpy as np
import pytest
from easydict import EasyDict
from PIL import Image

from src.config.keys import resolve
from src.data import describe, folder, imagenet
from src.data.batches import Batches, Batching, Source, draw_training_images
from src.data.images import central_part
from src.models import build_model
from src.platform.errors import InputError
from src.run.build import build_parts
from src.weights.checkpoint import read_checkpoint, write_checkpoint
from src.weights.trained import load_trained
from tests.in_process import run
from tests.pictures import COLOURS, spoil, write_pictures
from tests.streams import epochs_of


def settings(path, **given):
    return resolve({"dataset": "folder", "data_path": str(path), "image_size": 32, **given})


def read(config, split, info=None, batch_size=4):
    """All images and labels of a split, in order of reading."""
    source = Source("folder", config.data_path, config.seed, config.val_fraction, info=info or describe(config))
    batches = epochs_of(Batches(source, split, Batching(batch_size, 2)))[0]
    return tuple(np.concatenate(arrays) for arrays in zip(*batches))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """train/ and val/ of three classes."""
    root = tmp_path_factory.mktemp("pictures")
    write_pictures(root / "train", 8, ("owl", "cat", "dog"))
    write_pictures(root / "val", 3, ("dog", "owl"), seed=1)  # in a small collection a class may lack test pictures
    return root


def test_classes_follow_the_folders(pictures):
    info = describe(settings(pictures))
    assert (info.num_classes, info.classes, info.image_shape) == (3, ("cat", "dog", "owl"), (3, 32, 32))
    assert (info.crop, info.skipped) == (224 / 256, ())
    assert describe(resolve({"dataset": "folder", "data_path": str(pictures)})).image_shape == (3, 224, 224)
    assert describe(settings(pictures, crop=0.5)).crop == 0.5


def test_every_picture_has_the_label_of_its_folder(pictures):
    config = settings(pictures, statistics="imagenet")
    mean, std = (np.reshape(values, (3, 1, 1)) for values in (imagenet.MEAN, imagenet.STD))
    for split, counts in (("train", [8, 8, 8]), ("test", [0, 3, 3])):
        images, labels = read(config, split)
        assert np.bincount(labels, minlength=3).tolist() == counts
        colours = (images * std + mean).mean((2, 3)) * 255
        expected = np.array([COLOURS[name] for name in ("cat", "dog", "owl")])[labels]
        assert np.abs(colours - expected).max() < 20


@pytest.mark.parametrize("grey", [False, True])
def test_mean_and_deviation_are_those_of_the_training_pictures(pictures, grey):
    info = describe(settings(pictures, grey=grey))
    pixels = []
    for path in pictures.glob("train/*/*"):
        with Image.open(path) as file:
            image = file.convert("L" if grey else "RGB")
        box = central_part((32, 32), 224 / 256)(*image.size)
        pixels.append(np.asarray(image.resize((32, 32), Image.BILINEAR, box), float).reshape(-1, 1 if grey else 3))
    pixels = np.concatenate(pixels) / 255
    assert np.allclose(info.mean, pixels.mean(0), atol=1e-12)
    assert np.allclose(info.std, pixels.std(0), atol=1e-12)
    images, _ = read(settings(pictures, grey=grey), "train", info)
    assert images.shape == (24, 1 if grey else 3, 32, 32)


def test_pictures_held_out_do_not_count_in_mean_and_deviation(pictures):
    config = settings(pictures, val_fraction=0.5, seed=3)
    info = describe(config)
    assert info.mean != describe(settings(pictures)).mean
    # A class of its own colour, of which only one half is trained on: reading that half as test images gives mean 0.
    images = draw_training_images(Source("folder", str(pictures), 3, 0.5, info=info), 12)
    assert np.abs(images.mean((0, 2, 3))).max() < 1e-4
    assert np.abs(images.std((0, 2, 3)) - 1).max() < 1e-4


def test_pictures_of_one_shade_have_a_deviation(tmp_path):
    for name in ("black", "noir"):
        (tmp_path / name).mkdir()
        for index in range(4):
            Image.new("RGB", (40, 40)).save(tmp_path / name / f"{index}.png")
    info = describe(settings(tmp_path, val_fraction=0.25))
    assert (info.mean, info.std) == ((0.0,) * 3, (1 / 255,) * 3)


def test_one_level_of_folders_is_split_by_class_and_seed(tmp_path):
    write_pictures(tmp_path, 10, ("cat", "dog"))
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "cat" / "notes.txt").write_text("no picture")
    config = settings(tmp_path, val_fraction=0.2, seed=5)
    info = describe(config)
    assert info.classes == ("cat", "dog")
    parts = {}
    for split in ("train", "test"):
        parts[split] = Batches(Source("folder", str(tmp_path), 5, 0.2, info=info), split, Batching(4)).loaded
    assert np.bincount(parts["train"].labels).tolist() == [8, 8]
    assert np.bincount(parts["test"].labels).tolist() == [2, 2]
    names = set(parts["train"].images) | set(parts["test"].images)
    assert len(names) == 20
    other = Batches(Source("folder", str(tmp_path), 6, 0.2, info=info), "test", Batching(4)).loaded
    assert set(other.images) != set(parts["test"].images)


def test_unreadable_files_are_all_named_and_left_out_on_demand(tmp_path):
    write_pictures(tmp_path, 10, ("cat", "dog"))
    spoil(tmp_path / "cat" / "1.jpg")
    (tmp_path / "dog" / "4.webp").write_text("no picture")
    given = {"val_fraction": 0.3, "statistics": "imagenet"}
    with pytest.raises(InputError, match=r"2 files cannot be read: cat/1.jpg, dog/4.webp; .*--skip_unreadable"):
        describe(settings(tmp_path, **given))
    config = settings(f"{tmp_path}/./", skip_unreadable=True, **given)
    info = describe(config)
    assert info.skipped == ("cat/1.jpg", "dog/4.webp")
    labels = np.concatenate([read(config, split, info, 1)[1] for split in ("train", "test")])
    assert np.bincount(labels).tolist() == [9, 9]


def test_a_long_list_of_unreadable_files_is_cut():
    info = imagenet_like(skipped=tuple(map(str, range(23))))
    assert folder.format_skipped(info).endswith("18, 19 and 3 more")


def imagenet_like(**given):
    return folder.DataInfo(2, (3, 32, 32), imagenet.MEAN, imagenet.STD, **given)


@pytest.mark.parametrize(
    ("make", "given", "message"),
    [
        (lambda root: None, {}, "has no train/ and val/; .*--val_fraction"),
        (lambda root: None, {"data_path": ""}, "data_path: give the folder"),
        (lambda root: None, {"val_fraction": 0.2}, "has 0 class folders"),
        (lambda root: write_pictures(root, 2, ("cat",)), {"val_fraction": 0.5}, "has 1 class folders"),
        (lambda root: write_pictures(root / "train", 2), {}, "cannot read .*val: No such file"),
        (lambda root: write_pictures(root / "val", 2), {}, "cannot read .*train: No such file"),
        (lambda root: [(root / "a").mkdir(), (root / "b").mkdir()], {"val_fraction": 0.2}, "no images in the class"),
        (
            lambda root: [write_pictures(root, 4, ("cat", "dog")), (root / "eel").mkdir()],
            {"val_fraction": 0.25},
            "no image that can be read in .*eel",
        ),
        (
            lambda root: [write_pictures(root / "train", 2, ("cat", "dog")), write_pictures(root / "val", 2, ("owl",))],
            {},
            "val/owl is none of the network's 2 classes",
        ),
        (
            lambda root: write_pictures(root, 4, ("cat", "dog")),
            {"val_fraction": 0.5, "grey": True, "statistics": "imagenet"},
            "leave out grey",
        ),
    ],
)
def test_what_is_refused(make, given, message, tmp_path):
    make(tmp_path)
    with pytest.raises(InputError, match=message):
        describe(
            settings(**{"path": given.get("data_path", tmp_path), **{k: given[k] for k in given if k != "data_path"}})
        )


@pytest.mark.parametrize(
    "given", [{"image_size": 64}, {"crop": 0.5}, {"grey": True}, {"statistics": "imagenet"}, {"skip_unreadable": True}]
)
def test_settings_of_a_folder_are_refused_elsewhere(given):
    with pytest.raises(InputError, match=f"{next(iter(given))}: only for dataset folder"):
        resolve({"dataset": "cifar10", **given})


WORDS = (  # of a short run
    "--dataset folder --data_path pictures --val_fraction 0.25 --image_size 32 --skip_unreadable --sparsity 0.9 "
    "--batch_size 6 --epoch_size 4 --update_interval 2 --lr 0.02 --warmup_epochs 1 --output_path out"
)


@pytest.fixture(scope="module")
def run_of_pictures(tmp_path_factory):
    """The folder of a short run on one level of three classes, one picture of which is spoilt, and what it said."""
    root = tmp_path_factory.mktemp("run")
    write_pictures(root / "pictures", 12, ("cat", "dog", "owl"))
    spoil(root / "pictures" / "dog" / "1.jpg")
    answer = run("train.py", *WORDS.split(), cwd=root)
    assert answer.code == 0, answer.stderr
    return root, answer


def test_a_run_on_pictures_evaluates_and_says_what_it_left_out(run_of_pictures):
    root, answer = run_of_pictures
    assert "warning: left out: 1 files cannot be read: dog/1.jpg\n" in answer.stderr
    result = json.loads((root / "out" / "result.json").read_text())
    assert result["nonzeros"] == round(0.1 * result["weights"])
    assert "val" not in result["last"]  # what is held out is the test data
    answer = run("eval.py", "--ckpt", "out/last.ckpt", "--json", cwd=root)
    scores = json.loads(answer.stdout)
    assert scores["images"] == 9
    assert scores["top1"] == result["last"]["top1"]
    assert scores["loss"] == pytest.approx(result["last"]["loss"], rel=1e-5)


def test_a_run_goes_on_with_its_own_pictures_only(run_of_pictures, tmp_path):
    root, _ = run_of_pictures
    copy = shutil.copytree(root, tmp_path / "copy")
    words = ["train.py", *WORDS.split(), "--resume_ckpt", "auto"]
    answer = run(*words, cwd=copy)
    assert answer.code == 0, answer.stderr
    (copy / "pictures" / "cat" / "0.png").unlink()
    answer = run(*words, cwd=copy)
    assert answer.code == 2
    assert "data_path: not the data of the run" in answer.stderr


def test_classes_of_another_name_are_other_data(tmp_path):
    for name, classes in (("one", ("cat", "dog")), ("two", ("cat", "owl"))):
        write_pictures(tmp_path / name, 4, classes)
    one, two = (
        Batches(
            Source("folder", config.data_path, val_fraction=0.5, info=describe(config)), "train", Batching(1)
        ).content()
        for config in (settings(tmp_path / name, val_fraction=0.5) for name in ("one", "two"))
    )
    assert one["train images"] == two["train images"] == "4 in 2 classes"
    assert one["class names"] != two["class names"]


def test_calibration_leaves_out_the_pictures_that_test(run_of_pictures, tmp_path):
    root, _ = run_of_pictures
    words = ["--ckpt", "out/last.ckpt", "--file_format", "ONNX", "--quantize", "int8", "--calibration_images"]
    answer = run("export.py", *words, 21, "--evaluate", "--file_name", tmp_path / "a.onnx", cwd=root)
    assert "over 9 test images: int8 " in answer.stdout
    answer = run("export.py", *words, 99, "--file_name", tmp_path / "b.onnx", cwd=root)
    assert "99 are asked for, folder has " in answer.stderr


def test_evaluation_reads_other_pictures_of_the_same_classes(run_of_pictures, tmp_path):
    root, _ = run_of_pictures
    write_pictures(tmp_path / "val", 4, ("owl", "cat"), seed=9)
    answer = run("eval.py", "--ckpt", "out/last.ckpt", "--json", "--data_path", tmp_path, cwd=root)
    assert json.loads(answer.stdout)["images"] == 8
    write_pictures(tmp_path / "val", 1, ("ant",))
    answer = run("eval.py", "--ckpt", "out/last.ckpt", "--data_path", tmp_path, cwd=root)
    assert (answer.code, answer.stdout) == (2, "")
    assert "val/ant is none of the network's 3 classes" in answer.stderr


def test_the_exported_network_normalises_by_the_pictures_and_names_their_classes(run_of_pictures):
    root, _ = run_of_pictures
    trained = load_trained(root / "out" / "last.ckpt")
    assert trained.data == describe(EasyDict(trained.config, data_path=str(root / "pictures")))
    picture = "pictures/owl/0.png"
    for options in ([], ["--normalize"]):
        name = f"net{len(options)}"
        answer = run("export.py", "--ckpt", "out/last.ckpt", "--file_name", name, *options, cwd=root)
        assert answer.code == 0, answer.stderr
        answer = run("infer.py", "--model", f"{name}.mindir", picture, cwd=root)
        assert answer.stdout == f"{picture}: {expected_answer(trained, root / picture)}\n"


def expected_answer(trained, path):
    """Class and probability of a picture, by Pillow, numpy and the network in MindSpore."""
    from mindspore import Tensor

    with Image.open(path) as file:
        box = central_part((32, 32), trained.data.crop)(*file.size)
        pixels = np.asarray(file.convert("RGB").resize((32, 32), Image.BILINEAR, box), np.float32) / 255
    image = ((pixels - np.float32(trained.data.mean)) / np.float32(trained.data.std)).transpose(2, 0, 1)
    logits = trained.network(Tensor(image[None].astype(np.float32))).asnumpy()[0].astype(float)
    powers = np.exp(logits - logits.max())
    best = int(powers.argmax())
    return f"{trained.classes[best]} ({100 * powers[best] / powers.sum():.1f} %)"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda said: said.pop("data"), "does not say mean and deviation"),
        (lambda said: said["data"].update(std=[0.0, 1.0, 1.0]), "data.std.0"),
        (lambda said: said["data"].update(mean=[0.0]), "not of 3 channels"),
    ],
)
def test_a_checkpoint_whose_statistics_are_damaged(run_of_pictures, tmp_path, damage, message):
    tensors, said = read_checkpoint(run_of_pictures[0] / "out" / "last.ckpt")
    damage(said)
    write_checkpoint(tmp_path / "x.ckpt", tensors, said)
    with pytest.raises(InputError, match=message):
        load_trained(tmp_path / "x.ckpt")


def test_a_run_starts_from_a_network_of_another_number_of_classes(pictures, tmp_path, capsys):
    """The other layers have the file's weights when training starts, and a line says so."""
    source = build_model("resnet20", 1000, 3)
    ms.save_checkpoint(source, str(tmp_path / "w.ckpt"))
    config = settings(pictures, pretrained=str(tmp_path / "w.ckpt"), epoch_size=8, batch_size=8, update_interval=2)
    network = build_parts(config).network
    assert f"pretrained: {tmp_path}/w.ckpt: 21 layers kept; 1 new, classifier: 3 classes" in capsys.readouterr().err
    assert np.array_equal(network.conv1.weight.asnumpy(), source.conv1.weight.asnumpy())
    assert network.classifier.weight.shape == (3, 64)
