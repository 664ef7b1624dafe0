"""Test pictures in one folder with a list of labels: each form gives every picture its label; others are refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from src.config.keys import resolve
from src.data import describe, imagenet, published_info
from src.data.batches import Batches, Batching, Source
from src.data.label_list import GROUND_TRUTH, LISTS, known_classes
from src.platform.errors import InputError
from tests.streams import epochs_of

CLASSES = ("n01", "n05", "n30")  # in alphabetical order, as everywhere
IDS = {1: "n30", 2: "n01", 3: "n05"}  # of ILSVRC, in an order of their own
TRUTH = [2, 0, 1, 1, 0]  # label of each picture, in the order of their names
COLOURS = [10, 90, 170]  # of each class


@pytest.fixture
def root(tmp_path):
    """train/ of three classes, and val/ with five pictures, each in the colour of its class."""

    def write(path, label):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (COLOURS[label],) * 3).save(path)

    for label, name in enumerate(CLASSES):
        for number in range(2):
            write(tmp_path / "train" / name / f"{number}.png", label)
    for number, label in enumerate(TRUTH, 1):
        write(tmp_path / "val" / f"ILSVRC2012_val_{number:08d}.JPEG", label)
    (tmp_path / "val" / "notes.txt").touch()
    return tmp_path


def write_meta(folder, rows=None):
    """A meta.mat as in the development kit: the classes, and what they are kinds of."""
    rows = rows or [(number, name, "word", "gloss", 0, 0, 0, 1300) for number, name in IDS.items()]
    names = (
        "ILSVRC2012_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    )
    rows = [*rows, (4, "n99", "word", "gloss", 3, np.array([1, 2, 3]), 1, 0)]
    savemat(folder / "meta.mat", {"synsets": np.array(rows, dtype=[(name, object) for name in names])})


def read(root, dataset="folder"):
    """All test pictures of a folder: the brightness that was read and the label beside it."""
    settings = resolve({"dataset": "folder", "data_path": str(root), "image_size": 32, "statistics": "imagenet"})
    info = describe(settings)
    source = Source("folder", str(root), info=info)
    batches = epochs_of(Batches(source, "test", Batching(2, 2)))[0]
    images, labels = (np.concatenate(arrays) for arrays in zip(*batches))
    return (images[:, 0].mean((1, 2)) * imagenet.STD[0] + imagenet.MEAN[0]) * 255, labels


NAMES = [f"ILSVRC2012_val_{number:08d}" for number in range(1, 6)]
WNIDS = [CLASSES[label] for label in TRUTH]
KAGGLE = ["ImageId,PredictionString", *(f"{n},{w} 85 1 499 272 {w} 3 4 5 6 " for n, w in zip(NAMES, WNIDS))]
FORMS = {
    "places, as in val.txt of Caffe": ("val.txt", [f"{n}.JPEG {label}" for n, label in zip(NAMES, TRUTH)]),
    "names of classes": ("val_labels.txt", [f"val/{n}.JPEG\t{w}" for n, w in zip(NAMES, WNIDS)][::-1]),
    "divided by commas": ("val_labels.txt", [f"{n}, {w}" for n, w in zip(NAMES, WNIDS)] + [""]),
    "Kaggle": ("LOC_val_solution.csv", KAGGLE),
    "names in the order of the pictures": ("imagenet_2012_validation_synset_labels.txt", WNIDS),
    "development kit": (LISTS[-1], [str(next(i for i in IDS if IDS[i] == w)) for w in WNIDS]),
    "ground truth beside val": (GROUND_TRUTH, [str(next(i for i in IDS if IDS[i] == w)) for w in WNIDS]),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_picture_has_its_own_label(form, root):
    name, lines = FORMS[form]
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("\n".join(lines) + "\n")
    if name.endswith(GROUND_TRUTH):
        write_meta((root / name).parent)
    colours, labels = read(root)
    assert sorted(labels) == sorted(TRUTH)
    assert np.abs(colours - np.array(COLOURS)[labels]).max() < 4


def lines_of(label="n01", names=NAMES):
    return [f"{name} {label}" for name in names]


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        (None, [], "put a list of their labels beside it, as val_labels.txt, val.txt, .* or ILSVRC2012_validation"),
        ("val.txt", [], "val.txt holds no labels"),
        ("val.txt", ["", " "], "val.txt holds no labels"),
        ("val.txt", [*lines_of(), "a b c"], "line 6 is neither `name label` nor a label alone"),
        ("val.txt", ["n01", "a n05"], "line 2 is neither"),
        ("val.txt", lines_of(names=NAMES[1:]), "has no label for .*val/ILSVRC2012_val_00000001.JPEG"),
        ("val.txt", [*lines_of(), "x.JPEG n01"], "there is no picture x.JPEG"),
        ("val.txt", [*lines_of(), f"{NAMES[2]}.JPEG n05"], "has two labels for ILSVRC2012_val_00000003.JPEG"),
        ("val.txt", lines_of("owl"), "the class owl is none of the network's 3 classes"),
        ("val.txt", lines_of("3"), "3 is no place in alphabetical order, from 0 to 2; write the names"),
        ("val.txt", lines_of("9" * 5000), "is none of the network's 3 classes"),
        ("val.txt", WNIDS[1:], "has 4 labels for 5 pictures"),
        (
            "val.txt",
            ["1", "2", "3", "1", "2"],
            "numbers alone, and .*meta.mat, which says what they stand for, is missing",
        ),
        ("LOC_val_solution.csv", [*KAGGLE, "lonely"], "line 7 is neither"),
    ],
)
def test_what_is_refused(name, lines, message, root):
    if name:
        (root / name).write_text("\n".join(lines))
    with pytest.raises(InputError, match=message):
        read(root)


@pytest.mark.parametrize("content", [b"", b"MATLAB 5.0", None])
def test_a_damaged_meta_file(content, root):
    (root / GROUND_TRUTH).write_text("1\n2\n3\n1\n2\n")
    if content is None:
        savemat(root / "meta.mat", {"synsets": np.zeros(3)})
    else:
        (root / "meta.mat").write_bytes(content)
    with pytest.raises(InputError, match=r"meta\.mat is not the meta\.mat of ILSVRC2012"):
        read(root)


def test_numbers_that_meta_does_not_have(root):
    (root / GROUND_TRUTH).write_text("1\n2\n4\n1\n2\n")
    write_meta(root)
    with pytest.raises(InputError, match="the class 4 is none of the network's 3 classes"):
        read(root)


def test_a_list_that_is_no_text(root):
    (root / "val.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a text"):
        read(root)


# --- ImageNet, without its training pictures


@pytest.fixture
def validation(tmp_path):
    """val/ with three pictures of the classes n00000000, n00000700 and n00000999, and no train/."""
    (tmp_path / "val").mkdir()
    for name in "abc":
        Image.new("RGB", (40, 40)).save(tmp_path / "val" / f"{name}.JPEG")
    return tmp_path


def labels_of(folder, classes=()):
    info = published_info("imagenet")._replace(classes=classes)
    return Batches(
        Source("imagenet", str(folder), classes=classes, info=info), "test", Batching(2)
    ).loaded.labels.tolist()


def test_the_devkit_knows_the_classes_by_itself(validation):
    names = [f"n{number:08d}" for number in range(1000)]
    kit = validation / Path(LISTS[-1]).parent
    kit.mkdir(parents=True)
    write_meta(kit, [(1000 - place, name, "", "", 0, 0, 0, 1) for place, name in enumerate(names)])
    (validation / LISTS[-1]).write_text("1000\n300\n1\n")
    assert imagenet.class_names(validation, "test") == tuple(names)
    assert labels_of(validation) == labels_of(validation, tuple(names)) == [0, 700, 999]


def test_names_need_the_networks_classes_and_places_do_not(validation):
    (validation / "val.txt").write_text("a.JPEG n00000000\nb.JPEG n00000700\nc.JPEG n00000999\n")
    assert known_classes(validation) == ("n00000000", "n00000700", "n00000999")
    assert labels_of(validation, tuple(f"n{number:08d}" for number in range(1000))) == [0, 700, 999]
    with pytest.raises(InputError, match="the class n00000000 is not known without the folder train"):
        labels_of(validation)
    (validation / "val.txt").write_text("a.JPEG 0\nb.JPEG 700\nc.JPEG 999\n")
    assert labels_of(validation) == [0, 700, 999]
