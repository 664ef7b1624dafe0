"""Many workers: same result as one, and what happens when one of them fails."""

import json
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path

import mindspore as ms
import numpy as np
import parallel_job
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mindspore import Parameter, Tensor, nn

from src.data import digits
from src.data.sharding import Shard
from src.platform import parallel
from src.platform.errors import InputError
from src.rpg_cell import RPGWithLossCell, build_rank_term
from src.training import amp
from src.weights.checkpoint import read_checkpoint
from tests import in_process
from tests.streams import epochs_of, read

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "MS_RETRY_INTERVAL_LOWER": "1",
    "MS_RETRY_INTERVAL_UPPER": "2",
    "MS_NODE_TIMEOUT": "8",  # seconds of silence after which a worker counts as lost; 30 by default
}


class Worker:
    """Stands for worker `rank` of `size` where nothing is communicated."""

    def __init__(self, rank, size):
        self.rank = rank
        self.size = size


# --- shares of the layers


@given(costs=st.lists(st.integers(1, 10**9), max_size=60), workers=st.integers(1, 12))
def test_every_layer_has_one_worker_and_the_load_is_balanced(costs, workers):
    shares = parallel.share_out(costs, workers)
    assert len(shares) == workers
    assert sorted(index for share in shares for index in share) == list(range(len(costs)))
    loads = [sum(costs[index] for index in share) for share in shares]
    assert max(loads) <= sum(costs) / workers + max(costs, default=0)
    assert shares == parallel.share_out(list(costs), workers)


@pytest.mark.parametrize(
    ("costs", "workers", "shares"),
    [
        ([5, 1, 1, 1, 1, 1], 2, [[0], [1, 2, 3, 4, 5]]),
        ([3, 3, 2, 2, 2], 2, [[0, 2, 4], [1, 3]]),
        ([1, 2], 4, [[1], [0], [], []]),
        ([], 2, [[], []]),
        ([4, 4, 4], 1, [[0, 1, 2]]),
    ],
)
def test_shares(costs, workers, shares):
    assert parallel.share_out(costs, workers) == shares


class Task(nn.Cell):
    """A task loss that gives every weight a gradient of 1."""

    def __init__(self, weights):
        super().__init__()
        self.weights = weights

    def construct(self, images, labels):
        total = 0.0
        for weight in self.weights:
            total += weight.sum()
        return total * images - labels


@pytest.mark.parametrize("solver", ["gram", "svd"])
@pytest.mark.parametrize("size", [2, 3, 7])
def test_mean_of_the_shares_is_the_whole_rank_term(solver, size, rng):
    """Five layers of which one is zero and takes no part; seven workers are more than there are layers."""
    shapes = [(8, 4, 3, 3), (4, 5, 1, 1), (6, 6, 3, 3), (3, 2, 3, 3), (16, 8, 1, 1)]
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    arrays[2][:] = 0
    weights = [Parameter(Tensor(array), name=f"w{index}") for index, array in enumerate(arrays)]

    def objective(worker):
        cell = RPGWithLossCell(Task(weights), build_rank_term(solver, 0.2), 2.5, weights, worker)
        (total, task, rank), gradients = ms.value_and_grad(cell.terms, None, weights, has_aux=True)(
            Tensor(0.5), Tensor(1.0)
        )
        return [np.array([float(total), float(task), float(rank)])] + [g.asnumpy() for g in gradients]

    whole = objective(parallel.SINGLE)
    shares = [objective(Worker(rank, size)) for rank in range(size)]
    for expected, *parts in zip(whole, *shares):
        assert np.allclose(np.mean(parts, axis=0), expected, atol=1e-5)


def test_each_worker_decomposes_its_share_only(rng):
    weights = [Parameter(Tensor(rng.standard_normal((4, 4, 3, 3)).astype(np.float32)), name=f"w{i}") for i in range(6)]
    own = [
        RPGWithLossCell(Task(weights), build_rank_term("gram", 0.2), 1.0, weights, Worker(r, 3)).own for r in range(3)
    ]
    assert [len(share) for share in own] == [2, 2, 2]
    assert {weight.name for share in own for weight in share} == {weight.name for weight in weights}


# --- shares of the data


def labels_of(split, epochs=1, skip=0, shards=1, shard=0, batch_size=64, seed=0):
    source = read("digits", split, batch_size // shards, Shard(shards, shard), seed=seed)
    return [labels for _, labels in chain(*epochs_of(source, epochs, skip))]


@pytest.mark.parametrize("shards", [2, 4])
@pytest.mark.parametrize("seed", [0, 3])
def test_workers_together_see_the_images_of_a_single_process_in_every_step(shards, seed):
    whole = labels_of("train", epochs=2, seed=seed)
    parts = [labels_of("train", epochs=2, shards=shards, shard=shard, seed=seed) for shard in range(shards)]
    for expected, *batches in zip(whole, *parts):
        assert all(np.array_equal(expected[shard::shards], batch) for shard, batch in enumerate(batches))
    assert {len(part) for part in parts} == {len(whole)}


def test_number_of_steps_does_not_depend_on_the_workers():
    """1,437 images make 179 steps of 8, but the last of four shards of 360 padded images would make 180."""
    assert len(labels_of("train", batch_size=8)) == 179
    assert len(labels_of("train", batch_size=8, shards=4, shard=3)) == 179


def test_a_worker_continues_where_it_was():
    whole = labels_of("train", epochs=3, shards=2, shard=1)
    resumed = labels_of("train", epochs=3, shards=2, shard=1, skip=30)
    assert len(resumed) == len(whole) - 30
    assert all(np.array_equal(a, b) for a, b in zip(whole[30:], resumed))


@pytest.mark.parametrize("shards", [1, 2, 7])
def test_workers_together_evaluate_each_image_once(shards):
    parts = [np.concatenate(labels_of("test", shards=shards, shard=shard)) for shard in range(shards)]
    expected = digits.arrays("test")[1]
    assert all(np.array_equal(part, expected[shard::shards]) for shard, part in enumerate(parts))


def test_augmentation_differs_between_workers():
    def shifted(shard):
        """Where the first rows of the images are empty, which depends on the random shift."""
        data = read("digits", "train", 32, Shard(2, shard)).epoch()
        images = np.concatenate([images for images, _ in data.create_tuple_iterator(num_epochs=1, output_numpy=True)])
        return (images[:, 0, 0] == images.min()).all(axis=1)

    assert 0.3 < np.mean(shifted(0) != shifted(1)) < 0.6


@pytest.mark.parametrize(("batch_size", "workers", "local"), [(64, 1, 64), (64, 2, 32), (60, 4, 15)])
def test_images_of_a_step_are_shared_evenly(batch_size, workers, local):
    assert parallel.local_batch_size(batch_size, workers) == local


def test_a_step_that_cannot_be_shared_is_an_input_error():
    with pytest.raises(InputError, match="batch_size: 64 images per step cannot be shared evenly by 3 workers"):
        parallel.local_batch_size(64, 3)


# --- one process


def test_a_single_process_communicates_nothing(monkeypatch):
    monkeypatch.delenv("MS_ROLE", raising=False)
    assert parallel.start() is parallel.SINGLE
    assert parallel.SINGLE.gradient_reducer([]) is None
    arrays = [np.ones(2)]
    assert parallel.SINGLE.mean(arrays) is arrays


# --- two workers against one process; one launch for all of it


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What tests/parallel_job.py wrote, by (number of workers, rank): (JSON content, arrays)."""
    folder = tmp_path_factory.mktemp("workers")
    program = ROOT / "tests" / "parallel_job.py"
    assert in_process.run("tests/parallel_job.py", folder).code == 0
    command = ["msrun", "--worker_num=2", "--local_worker_num=2", "--join=True", f"--log_dir={folder}"]
    command += [f"--master_port={30_000 + os.getpid() % 10_000}", str(program), str(folder)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    logs = "".join(log.read_text()[-3000:] for log in folder.glob("worker_*.log"))
    assert done.returncode == 0, done.stderr[-3000:] + logs
    found = {"folder": folder}
    for size, rank in ((1, 0), (2, 0), (2, 1)):
        file = folder / f"{size}_{rank}.json"
        found[size, rank] = json.loads(file.read_text()), dict(np.load(file.with_suffix(".npz")))
    return found


def close(one, other, tolerance=1e-5):
    return one.keys() == other.keys() and all(np.allclose(one[name], other[name], atol=tolerance) for name in one)


@pytest.mark.parametrize("masks", ["masks", "normed_masks", "patterned_masks"])
def test_masks_are_those_of_one_process_at_every_update(masks, runs):
    expected = runs[1, 0][0][masks]
    assert list(expected) == ["4", "8", "12", "16", "20"]
    assert len(set(expected.values())) >= 4  # the last drops nothing
    assert runs[2, 0][0][masks] == runs[2, 1][0][masks] == expected


def test_weights_and_moving_averages_are_those_of_one_process(runs):
    one, (first, second) = runs[1, 0][1], (runs[2, rank][1] for rank in (0, 1))
    assert close({name: first[name] for name in one}, one)
    assert all(np.array_equal(first[name], second[name]) for name in one)
    statistics = [name for name in one if name.startswith("normed.") and "moving" in name]
    assert len(statistics) == 4
    assert all(np.ptp(one[name]) > 1e-3 for name in statistics)


def test_rank_loss_is_the_whole_one(runs):
    expected = runs[1, 0][0]["rank_losses"]
    assert len(expected) > 5
    for rank in (0, 1):
        assert runs[2, rank][0]["rank_losses"] == pytest.approx(expected, abs=1e-5)


def test_scores_are_those_of_one_process(runs):
    for images, expected in runs[1, 0][0]["scores"].items():
        assert expected["images"] == int(images)
        for rank in (0, 1):
            assert runs[2, rank][0]["scores"][images] == pytest.approx(expected, rel=1e-4)


def test_communication(runs):
    reduced = [[[1.5, 1.5]] * 3, [5.0], [[[-0.5, -0.5]], [[-0.5, -0.5]]]]
    for rank in (0, 1):
        seen = runs[2, rank][0]["communication"]
        assert seen["reduced"] == seen["mean"] == reduced
        assert seen["sum"] == [2.0, 1.0]
        assert seen["equal"] is None
        assert "those of worker 1 differ from those of worker 0" in seen["unequal"]


def test_masks_that_differ_stop_all_workers_and_name_the_step(runs):
    for rank in (0, 1):
        saving, update = runs[2, rank][0]["divergence"]
        assert "weights and optimiser state after step 4: those of worker 1 differ" in saving
        assert "masks after step 8: those of worker 1 differ" in update
    assert not (runs["folder"] / "rpg.ckpt").exists()


def test_an_overflow_on_one_worker_makes_all_of_them_skip_the_step(runs):
    first, second = (runs[2, rank][0]["overflow"]["steps"] for rank in (0, 1))
    assert first == second
    assert len(first) == 11
    scales, weights, masks = zip(*first)
    start = amp.INITIAL_SCALE
    assert scales == (start, start, *[start / 2] * 2, *[start / 4] * 3, *[start / 16] * 4)
    changed = [step for step in range(2, 12) if weights[step - 1] != weights[step - 2]]
    assert changed == [2, 4, 6, 7, 8, 9, 10, 11]  # not 3 and 5
    assert [step for step in range(2, 12) if masks[step - 1] != masks[step - 2]] == [4, 8]


def test_moving_averages_of_batch_norm_are_put_together(runs):
    first, second = (runs[2, rank][0]["overflow"] for rank in (0, 1))
    assert first["after"] == second["after"]
    assert len(first["after"]) == 2
    for one, other, mean in zip(first["before"], second["before"], first["after"]):
        assert not np.allclose(one, other, rtol=1e-4, atol=0)
        assert np.allclose(mean, np.mean([one, other], axis=0), rtol=1e-6)


def test_weights_that_differ_stop_all_workers_at_the_end_of_the_epoch_and_are_not_saved(runs):
    message = "weights and optimiser state after step 11: those of worker 1 differ from those of worker 0"
    for rank in (0, 1):
        found = runs[2, rank][0]["weights"]
        assert len(found) == 2  # at the end of the epoch, and when it is saved
        assert all(message in text for text in found)
    folder = runs["folder"] / "weights"
    assert read_checkpoint(folder / "resume.ckpt")[1]["step"] == 0
    assert not (folder / "best.ckpt").exists()
    assert not (folder / "last.ckpt").exists()


def test_one_process_continues_a_run_of_two_workers(runs):
    run = parallel_job.Run(parallel.SINGLE)
    run.restore(runs["folder"] / "2.ckpt")
    assert run.step.step == parallel_job.MIDDLE
    run.train(parallel_job.STEPS)
    assert {str(step): digest for step, digest in run.masks.items()}.items() <= runs[1, 0][0]["masks"].items()
    assert len(run.masks) == 2
    arrays = run.arrays()
    assert close(arrays, {name: runs[1, 0][1][name] for name in arrays})


def test_two_workers_continue_a_run_of_one_process(runs):
    expected, arrays = runs[1, 0]
    for rank in (0, 1):
        seen, found = runs[2, rank]
        assert seen["continued_masks"] == {step: expected["masks"][step] for step in ("16", "20")}
        continued = {name.partition(".")[2]: found[name] for name in found if name.startswith("continued.")}
        assert continued.keys() > {"conv1.weight", "mask.conv1.weight"}
        assert close(continued, {name: arrays[name] for name in continued})
