"""Held-out training images: drawn from each class by the seed, never trained on, and what they are for in a run."""

import json
from itertools import chain

import numpy as np
import pytest
from PIL import Image

from benchmark.random_data import write_cifar10, write_imagenet
from src.data import DATASETS, digits
from src.data.samples import held_out
from src.data.sharding import Shard
from src.platform.errors import InputError
from src.run.final_scores import final_scores
from src.run.saving import Progress
from src.run.trainer import Trainer
from src.training.evaluation import Scores
from src.weights.checkpoint import load_weights, read_checkpoint
from tests import streams
from tests.streams import epochs_of

CLASSES = {"cifar10": 10, "imagenet": 5, "characters": 36}
IMAGES = {"cifar10": 40, "imagenet": 20, "characters": 144}  # four of each class


def of_one_colour(index, size=32):
    return np.full((size, size, 3), index, np.uint8)


def write_characters(folder):
    """Four images of each of the 36 classes, of one colour each."""
    (folder / "characters").mkdir(parents=True)
    indices = np.arange(144, dtype=np.uint8)
    records = np.concatenate([indices[:, None] % 36, np.repeat(indices[:, None], 3 * 16 * 16, 1)], 1)
    records.tofile(folder / "characters" / "train.bin")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    imagenet = write_imagenet(root / "imagenet", 5, 0, of_one_colour)
    for index in range(5, 20):
        Image.fromarray(of_one_colour(index)).save(imagenet / "train" / f"n{index % 5:08d}" / f"{index}.png")
    return {
        "cifar10": write_cifar10(root / "cifar10", 40, 0, of_one_colour),
        "imagenet": imagenet,
        "characters": write_characters(root),
    }


def indices(name, images):
    """The colour of each image, which is its index."""
    middle = images.shape[2] // 2
    return np.round((images[:, 0, middle, middle] * DATASETS[name].STD[0] + DATASETS[name].MEAN[0]) * 255).astype(int)


def read(name, split, folders, batch_size=5, epochs=1, **options):
    """(index, label) of every image in some epochs, as they come."""
    options = {"val_fraction": 0.25, "data_path": str(folders[name]), "seed": 1, **options}
    batches = chain(*epochs_of(streams.read(name, split, batch_size, **options), epochs))
    return [pair for images, labels in batches for pair in zip(indices(name, images).tolist(), labels.tolist())]


@pytest.mark.parametrize("name", CLASSES)
def test_one_of_four_images_of_each_class_is_held_out_and_never_trained_on(name, folders):
    held = read(name, "val", folders)
    assert sorted(label for _, label in held) == list(range(CLASSES[name]))
    trained = read(name, "train", folders, batch_size=3, epochs=4)
    assert len(trained) == 4 * (3 * CLASSES[name] // 3 * 3)
    assert {index for index, _ in trained} == set(range(IMAGES[name])) - {index for index, _ in held}


@pytest.mark.parametrize("name", ["cifar10", "imagenet"])
def test_the_split_is_that_of_the_seed_whatever_workers_and_threads(name, folders):
    held = read(name, "val", folders)
    assert held == read(name, "val", folders, num_workers=2)
    assert set(held) != set(read(name, "val", folders, seed=2))
    for split, batch_size in (("val", 2), ("train", 1)):
        parts = [
            read(name, split, folders, batch_size, shard=Shard(3, index), num_workers=1 + index % 2)
            for index in range(3)
        ]
        together = list(chain(*parts))
        assert len(together) == len(set(together))
        assert set(together) == (set(held) if split == "val" else set(read(name, "train", folders, 1)))


def test_held_out_images_are_read_as_they_are_and_in_order():
    images, labels = digits.arrays("train")
    mask = held_out(labels, 0.1, 7)
    batches = epochs_of(streams.read("digits", "val", 50, seed=7, val_fraction=0.1))[0]
    expected = (images[mask].transpose(0, 3, 1, 2) / 255 - digits.MEAN[0]) / digits.STD[0]
    assert np.allclose(np.concatenate([batch[0] for batch in batches]), expected, atol=1e-5)
    assert np.array_equal(np.concatenate([batch[1] for batch in batches]), labels[mask])
    counts = np.bincount(labels)
    assert np.bincount(labels[mask]).tolist() == [round(0.1 * count) for count in counts]


def test_skipping_to_a_step_and_mixup_leave_the_held_out_images_out(folders):
    held = {"data_path": str(folders["cifar10"]), "val_fraction": 0.25, "seed": 1}
    data = streams.read("cifar10", "train", 6, **held, mixup=0.4)
    assert data.steps == 5
    whole, resumed = epochs_of(data, 2), epochs_of(data, 2, skip=7)
    for one, other in zip(whole[1][2:], resumed[0]):
        assert all(np.array_equal(a, b) for a, b in zip(one, other))
    assert whole[0][0][1].shape == (6, 10)
    plain = streams.read("cifar10", "val", 6, **held)
    assert epochs_of(plain)[0][0][1].dtype == np.int32


def test_test_images_are_all_there(folders):
    options = {"val_fraction": 0.25}
    assert sum(len(batch[1]) for batch in epochs_of(streams.read("digits", "test", 100, **options))[0]) == 360


@pytest.mark.parametrize(
    ("labels", "fraction", "message"),
    [
        (
            [0] * 30 + [4] * 3,
            0.1,
            "0.1 of the 3 training images of class 4 is 0, which leaves none to choose by; .*larger",
        ),
        (
            [0] * 30 + [4] * 3,
            0.9,
            "0.9 of the 3 training images of class 4 is 3, which leaves none to train on.*smaller",
        ),
        ([2], 0.5, "0.5 of the 1 training images of class 2 is 0"),
    ],
)
def test_a_share_that_takes_none_or_all_of_a_class_is_refused(labels, fraction, message):
    with pytest.raises(InputError, match=f"val_fraction: {message}"):
        held_out(np.int32(labels), fraction, 0)


def test_a_run_says_where_the_share_is_too_small(small_run):
    with pytest.raises(InputError, match=r"val_fraction: 0\.001 of the 142 training images of class 0 is 0"):
        Trainer(small_run(val_fraction=0.001))


def test_a_run_chooses_by_held_out_images_and_reports_the_test_scores(small_run):
    """Here the first epoch is made to look best on them, so that best and last are two networks."""
    settings = {"method": "dense", "val_fraction": 0.2, "epoch_size": 2, "ema_decay": 0.9}
    trainer = Trainer(small_run(**settings))
    data, evaluate, looks = trainer.parts.data, trainer.evaluate, iter([99.0, 40.0])
    seen = []

    def flattered(dataset):
        scores = evaluate(dataset)
        seen.append("val" if dataset is data.val else "test")
        return scores._replace(top1=next(looks)) if dataset is data.val else scores

    trainer.evaluate = flattered
    result = trainer.run()
    assert seen == ["val", "val", "test", "test"]  # the test images wait for the end
    lines = [json.loads(line) for line in trainer.folder.metrics.read_text().splitlines()]
    assert [(line["evaluated"], line["top1"]) for line in lines] == [("val", 99.0), ("val", 40.0)]
    assert (result["best"]["epoch"], result["last"]["epoch"]) == (1, 2)
    assert (result["top1"], result["top5"]) == (result["best"]["top1"], result["best"]["top5"])
    assert result["best"]["loss"] != result["last"]["loss"]
    for name, line in zip(("best", "last"), lines):
        assert result[name]["val"] == {key: line[key] for key in ("top1", "top5", "loss")}
        path = trainer.folder.path / f"{name}.ckpt"
        load_weights(trainer.network, read_checkpoint(path)[0], path)
        scores = evaluate(data.test)
        assert scores.images == digits.NUM_SAMPLES["test"]
        assert {key: result[name][key] for key in ("top1", "top5", "loss")} == {
            key: getattr(scores, key) for key in ("top1", "top5", "loss")
        }

    trainer.folder.result.unlink()  # as if the crash had come just before it was written
    again = Trainer(small_run(**settings, resume_ckpt="auto")).run()
    assert {**again, "seconds": 0} == {**result, "seconds": 0}


class Second:
    """The second of two workers: the sum over both is what the first has to say, as its own share is nothing."""

    rank, size = 1, 2

    def __init__(self, tensors):
        self.said = iter(tensors.values())

    def sum(self, array):
        assert not array.any()
        return array + next(self.said)


def weights_of(trainer):
    return {parameter.name: parameter.asnumpy().copy() for parameter in trainer.network.get_parameters()}


@pytest.fixture
def two_networks(small_run):
    """A trainer whose last network is not its best, and the best one's weights."""
    trainer = Trainer(small_run(method="dense", val_fraction=0.2))
    best = {name: array + np.float32(0.5) for name, array in weights_of(trainer).items()}
    record = {"top1": 1.0, "top5": 2.0, "loss": 3.0}
    progress = Progress(2, best={"epoch": 1, **record}, last={"epoch": 2, **record})
    return trainer, best, progress


def test_every_worker_tests_the_best_network_that_worker_0_has_read(two_networks, tmp_path):
    trainer, best, progress = two_networks
    before, seen = weights_of(trainer), []

    def evaluate(dataset):
        seen.append(weights_of(trainer))
        return Scores(10.0 * len(seen), 50.0, 1.0, 360)

    arguments = progress, trainer.parts.data, trainer.network, evaluate, tmp_path / "nowhere.ckpt", Second(best)
    first, last = final_scores(*arguments)
    assert (first["top1"], last["top1"], first["val"]["top1"]) == (20.0, 10.0, 1.0)
    after = weights_of(trainer)
    for name in before:
        assert np.array_equal(seen[0][name], before[name])
        assert np.array_equal(seen[1][name], best[name])
        assert np.array_equal(after[name], before[name])


@pytest.mark.parametrize("complete", [0, 1])
def test_a_signal_in_the_last_evaluations_leaves_no_half_of_a_result(complete, two_networks, tmp_path):
    trainer, best, progress = two_networks
    scores = iter([Scores(10.0, 50.0, 1.0, 360)] * complete + [None])
    arguments = progress, trainer.parts.data, trainer.network, lambda _: next(scores), tmp_path / "x", Second(best)
    assert final_scores(*arguments) is None
