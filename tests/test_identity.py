"""What a run is recognised by: the data's content, what workers compare before they begin, the schema of a state."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from tiny_train import Tiny

from benchmark.random_data import write_imagenet
from src.config.keys import resolve
from src.data import class_folders
from src.data.batches import Batches, Batching, Source
from src.data.samples import Samples
from src.data.sharding import Shard
from src.models import MODELS
from src.platform.errors import InputError
from src.platform.parallel import SINGLE, Workers
from src.run.identity import check_alike, check_content, differences, identity
from src.run.state_schema import check_progress, read_progress
from src.run.trainer import Trainer
from src.weights.checkpoint import read_checkpoint, write_checkpoint


def pixels(number=0, count=4):
    images = np.full((count, 2, 2, 1), 7, np.uint8)
    images[-1, -1, -1] += number
    return images


def test_the_digest_of_images_in_memory_moves_with_any_of_them():
    labels = np.arange(4, dtype=np.int32)
    digest = Samples(pixels(), labels).digest()
    assert Samples(pixels().copy(), labels.copy()).digest() == digest
    others = [Samples(pixels(1), labels), Samples(pixels(), labels[::-1]), Samples(pixels(count=3), labels[:3])]
    assert digest not in [other.digest() for other in others]


@pytest.fixture
def listed(tmp_path):
    """A function that lists the images of a folder with two classes; the first has the images a.png and b.png."""

    def listing(root):
        for name in ("cat/a.png", "cat/b.png", "dog/c.png"):
            file = tmp_path / root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"x" * 10)
        return lambda: class_folders.list_images(tmp_path / root, ("cat", "dog")).digest()

    return listing


def test_the_digest_of_files_is_of_names_and_sizes_wherever_they_lie(listed, tmp_path):
    one, other = listed("one"), listed("far/other")
    digest = one()
    assert other() == digest
    (tmp_path / "far/other/cat/b.png").write_bytes(b"y" * 11)
    assert other() != digest
    (tmp_path / "far/other/cat/b.png").write_bytes(b"z" * 10)
    assert other() == digest
    (tmp_path / "far/other/cat/b.png").rename(tmp_path / "far/other/cat/d.png")
    assert other() != digest
    (tmp_path / "one/cat/b.png").unlink()
    assert one() != digest


def test_a_file_that_went_while_it_was_looked_at_is_named(listed, tmp_path):
    listed("one")
    samples = class_folders.list_images(tmp_path / "one", ("cat", "dog"))
    os.unlink(tmp_path / "one/dog/c.png")
    with pytest.raises(InputError, match=r"cannot read .*dog/c\.png: No such file"):
        samples.digest()


def test_the_content_of_a_split_in_words():
    content = Batches(Source("digits"), "train", Batching(64)).content()
    assert content["train images"] == "1,437 in 10 classes"
    assert content.keys() == {"train images", "train content", "class names"}
    assert Batches(Source("digits", seed=5), "train", Batching(32), Shard(2, 1)).content() == content  # of all workers
    held = Batches(Source("digits", val_fraction=0.5), "val", Batching(64)).content()
    assert held["val images"].split(" ")[0] in ("718", "719")


class Job:
    """Stands for the workers of a job, whose texts are given; this one's is the last."""

    def __init__(self, *others):
        self.others = list(others)

    def gather_text(self, text):
        return [*self.others, text]


def test_workers_that_are_alike_begin_and_others_are_named_with_what_differs():
    content = {"train images": "1,437 in 10 classes"}
    mine = identity(resolve({}), content)
    check_alike(mine, SINGLE)
    check_alike(mine, Job(json.dumps(mine), json.dumps(mine)))
    same = identity(resolve({"data_path": "elsewhere", "output_path": "x", "num_workers": 1}), content)
    check_alike(same, Job(json.dumps(mine)))
    for changed, message in (
        (identity(resolve({"lr": 0.5}), content), "lr is 0.1 on worker 0, 0.5 on worker 1"),
        (identity(resolve({"epoch_size": 3}), content), "epoch_size is 40 on worker 0, 3 on worker 1"),
        (identity(resolve({"save_steps": 3}), content), "save_steps is 0 on worker 0, 3 on worker 1"),
        (
            identity(resolve({}), {"train images": "700 in 10 classes"}),
            "train images is 1,437 in 10 classes on worker 0",
        ),
        ({**mine, "MindSpore": "2.7.1"}, "on worker 0, 2.7.1 on worker 1"),
    ):
        with pytest.raises(InputError, match=f"^the workers of this job are not alike: .*{message}"):
            check_alike(changed, Job(json.dumps(mine)))


@pytest.mark.parametrize("texts", [["a", "bcdefgh"], ["", "ä"], ["abcd", "wxyz", "1"]], ids=str)
def test_texts_of_any_length_are_gathered(texts):
    workers = Workers.__new__(Workers)
    sent = []
    for text in texts:  # what each would send, for the lengths and then for the words
        content = text.encode()
        longest = max(len(other.encode()) for other in texts)
        words = np.zeros(-(-longest // 4), np.int32)
        words.view(np.uint8)[: len(content)] = list(content)
        sent.append((np.array([len(content)], np.int32), words))
    for own, text in enumerate(texts):
        calls = iter(range(2))

        def gather(array, own=own, calls=calls):
            call = next(calls)
            assert np.array_equal(array, sent[own][call])
            return np.stack([each[call] for each in sent])

        workers.gather = gather
        assert workers.gather_text(text) == texts


def test_differences_in_words():
    assert differences({"a": "1", "b": "2"}, {"a": "1", "b": "2"}, "here", "there") == ""
    assert differences({"a": "1"}, {"a": "2", "b": "3"}, "here", "there") == (
        "a is 1 here, 2 there, b is unknown here, 3 there"
    )


def test_a_state_of_before_data_was_compared_goes_on():
    check_content("x", None, {"train images": "1"})
    with pytest.raises(InputError, match="not the data of the run in x: train images is 2 in the run, 1 now"):
        check_content("x", {"train images": "2"}, {"train images": "1"})


# --- the state


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """Arrays and progress of a run within its second epoch, and its configuration."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "resnet20", Tiny)
        recipe = {"batch_size": 128, "update_interval": 4, "epoch_size": 2, "warmup_epochs": 1, "sparsity": 0.8}
        config = resolve({**recipe, "output_path": str(tmp_path_factory.mktemp("run")), "save_steps": 5})
        Trainer(config).run()
        arrays, progress = read_checkpoint(f"{config.output_path}/resume.previous.ckpt")
        assert progress["step"] == 20
        yield arrays, progress, config


@pytest.fixture
def refused(state):
    """A function that resumes from the state with other arrays or progress (...: none), and returns what is said."""
    found, written, config = state
    folder = Path(config.output_path) / "damaged"
    folder.mkdir(exist_ok=True)
    path = folder / "resume.ckpt"
    trainer = Trainer(resolve({**config, "output_path": str(folder), "resume_ckpt": "auto"}))

    def resume(arrays=None, **progress):
        kept = {key: value for key, value in {**written, **progress}.items() if value is not ...}
        write_checkpoint(path, {**found, **(arrays or {})}, kept)
        before = path.read_bytes()
        try:
            trainer.saver.resume()
        except InputError as error:
            message = str(error)
        else:
            return ""
        assert path.read_bytes() == before
        assert str(path) in message
        return message

    return resume


def test_the_schema_of_a_state(state, refused):
    assert refused() == ""
    assert refused(data=...) == ""  # of an older version
    progress = state[1]
    fields = ["step", "epoch", "best", "last", "seconds", "update", "rank_losses", "config"]
    for name in fields:
        wrong = [..., "x", [], True] if name not in ("best", "update", "rank_losses") else [..., "x", [], {"step": 1}]
        for value in wrong[name == "step" :]:  # without a step it is no state at all
            assert name in refused(**{name: value}), (name, value)
    for name, value in (("step", -1), ("seconds", -1), ("seconds", float("nan")), ("epoch", 0.5), ("data", {"a": 1})):
        assert name in refused(**{name: value}), (name, value)
    for name in progress["last"]:
        assert f"last.{name}" in refused(last={**progress["last"], name: None})
    for name in progress["update"]:
        assert f"update.{name}" in refused(update={**progress["update"], name: None})
    assert "wings" in refused(wings=2)


def test_a_step_of_another_epoch(state, refused):
    for step, epoch in ((10, 1), (23, 1), (20, 0), (33, 2)):
        assert "does not lie in epoch" in refused(step=step, epoch=epoch), (step, epoch)
    later = {**state[1]["update"], "step": 21}
    assert "mask update comes after" in refused(update=later)


@pytest.mark.parametrize(
    ("step", "epoch", "fits"), [(0, 0, 1), (11, 0, 1), (11, 1, 1), (22, 2, 1), (12, 0, 0), (0, 1, 0)]
)
def test_where_a_step_lies(step, epoch, fits, state):
    saved = read_progress("x", {**state[1], "step": step, "epoch": epoch, "update": None})
    if fits:
        check_progress("x", saved, 11, 2)
    else:
        with pytest.raises(InputError):
            check_progress("x", saved, 11, 2)


def test_masks_must_fit_weights_and_schedule(state, refused):
    arrays = state[0]
    name = next(name for name in arrays if name.startswith("mask."))
    mask = arrays[name]
    weight = arrays[name.replace("mask.", "network.")]
    assert "not a mask of" in refused({name: mask[:-1]})
    assert "not a mask of" in refused({name: np.append(mask, mask[:1])})
    assert "not a mask of" in refused({name: mask.astype(np.int32)})
    assert "non-zero weights outside its mask" in refused({name: np.zeros_like(mask)})
    assert "masks keep" in refused({name: np.full_like(mask, 255)})
    dead = {name: np.zeros_like(mask), name.replace("mask.", "network."): np.zeros_like(weight)}
    assert "masks keep" in refused(dead)


def test_optimiser_state_of_another_kind(state, refused):
    arrays = state[0]
    name = next(name for name in arrays if name.startswith("optimizer.moments"))
    for other in (arrays[name].astype(np.float64), arrays[name][:1], arrays[name].reshape(-1)):
        assert f"{name} is " in refused({name: other})
    assert "workers.own" in refused({"workers.own": np.zeros((2, 3), np.float32)})


def test_another_data_set_of_the_same_shape_is_refused(state, refused):
    data = {**state[1]["data"], "train content": "0" * 12}
    assert "data_path: not the data of the run" in refused(data=data)


def test_images_that_were_lost_are_noticed(tmp_path):
    data = tmp_path / "data"
    write_imagenet(data, 4, 1, lambda index: np.zeros((40, 50, 3), np.uint8))
    content = Batches(Source("imagenet", str(data)), "train", Batching(2)).content()
    next((data / "train").rglob("*.JPEG")).unlink()
    now = Batches(Source("imagenet", str(data)), "train", Batching(2)).content()
    with pytest.raises(InputError, match="train images is 4 in 4 classes in the run, 3 in 3"):
        check_content("x", content, now)
