"""The state of a run: all of it comes back; each worker has its own; a run with other workers can take it over."""

import json
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from tiny_train import Tiny

from src.config.keys import resolve
from src.data.batches import iterate
from src.models import MODELS
from src.platform.errors import InputError
from src.pruning import rank_term
from src.run.trainer import Trainer
from src.training.state import RunState
from src.weights.checkpoint import read_checkpoint

# --- everything that changes is saved and restored

BEST = {"epoch": 1, "top1": 1.0, "top5": 3.0, "loss": 2.0}
SAVED, END = 7, 10  # steps; masks are updated at 4 and 8, in the middle of the epoch
RECIPE = {
    "batch_size": 128,
    "update_interval": 4,
    "epoch_size": 2,
    "lr": 0.05,
    "warmup_epochs": 1,
    "sparsity": 0.8,
    "rank_interval": 3,
    "amp_level": "O2",
    "ema_decay": 0.9,
    "accumulation_steps": 2,
    "optimizer": "adamw",
    "grad_clip": 0.5,
    "hyperbolic_step": 5.0,
}


def moving(trainer):
    """All that training changes, by the names of the checkpoint, gathered from where it is used; no one is asked what
    is saved.
    """
    parts, step = trainer.parts, trainer.step
    found = {f"network.{parameter.name}": parameter for parameter in trainer.network.get_parameters()}
    adam = parts.optimizer
    moved = (*adam.moment1, *adam.moment2, adam.beta1_power, adam.beta2_power, adam.global_step)
    found.update({f"optimizer.{state.name}": state for state in moved})
    found.update({f"other.{average.name}": average for average in parts.average.averages})
    found["other.loss_scale.value"] = parts.scale.scale_value
    found["other.loss_scale.counter"] = parts.scale.counter
    found["other.loss_sum"] = step.loss_sum
    found["other.rank_failures"] = step.rank_failures
    found.update({f"mask.{weight.name}": mask for weight, mask in zip(parts.pruner.weights, parts.pruner.device_masks)})
    return found


def snapshot(trainer):
    """Arrays of all that training changes, and the pruner's own masks, which are those of the device."""
    for mask, device in zip(trainer.pruner.masks, trainer.pruner.device_masks):
        assert np.array_equal(mask, device.asnumpy())
    return {name: parameter.asnumpy().copy() for name, parameter in moving(trainer).items()}


def progress_of(trainer):
    step, progress = trainer.step, vars(trainer.progress)
    rank_loss = float(np.float32(float(step.last_rank_loss)))
    return json.dumps([step.step, step.last_update._asdict(), rank_loss, {**progress, "started": 0}])


def differing(one, other):
    """The names whose arrays are not the same bit for bit."""
    return {name for name in one.keys() | other.keys() if one[name].tobytes() != other[name].tobytes()}


def train(trainer, last):
    data = trainer.parts.data.train.epoch(0)
    for number, batch in enumerate(iterate(data.create_tuple_iterator(num_epochs=1)), start=1):
        if trainer.step.step < number <= last:
            trainer.step(*batch)


def spoil(trainer):
    """Other values in everything that `moving` knows."""
    for parameter in moving(trainer).values():
        ops.assign(parameter, Tensor(np.full(parameter.shape, 77, ms.dtype_to_nptype(parameter.dtype))))
    trainer.pruner.load_masks([~mask for mask in trainer.pruner.masks])


PATTERN = {"pattern": "2:4", "pattern_rest": "unstructured"}


@pytest.fixture(scope="module", params=[{}, pytest.param(PATTERN, marks=pytest.mark.slow)], ids=["unstructured", "2:4"])
def saved_run(request, tmp_path_factory):
    """Configuration, snapshots at the start, at the save and at the end, and the progress at save and end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "resnet20", Tiny)
        decompose = rank_term.decompose
        patch.setattr(rank_term, "decompose", lambda m: None if m.shape == (8, 9) else decompose(m))  # conv1 fails
        config = resolve({**RECIPE, **request.param, "output_path": str(tmp_path_factory.mktemp("saved"))})
        trainer = Trainer(config)
        trainer.progress.initial, trainer.progress.best = trainer._report(), BEST
        start = snapshot(trainer)
        ops.assign(trainer.parts.scale.scale_value, Tensor(3 * 2.0**20, ms.float32))  # some steps will overflow
        train(trainer, SAVED)
        assert not any(total.asnumpy().any() for total in trainer.step.accumulator.sums)  # empty between steps
        trainer.saver.save()
        middle = snapshot(trainer), progress_of(trainer)
        train(trainer, END)
        yield resolve({**config, "resume_ckpt": "auto"}), start, middle, (snapshot(trainer), progress_of(trainer))


def test_everything_that_training_changes_is_in_the_file_and_nothing_else(saved_run):
    config, start, (middle, _), (end, _) = saved_run
    assert differing(start, middle) == start.keys()
    assert differing(middle, end) >= start.keys() - {"other.loss_scale.value"}  # it has found its height by then
    arrays = read_checkpoint(f"{config.output_path}/resume.ckpt")[0]
    assert arrays.keys() == start.keys()


def test_a_run_that_is_built_again_has_every_array_back_and_goes_on_bit_for_bit(saved_run):
    config, _, (middle, progress), (end, last) = saved_run
    trainer = Trainer(config)
    spoil(trainer)
    assert differing(snapshot(trainer), middle) == middle.keys()
    trainer.saver.resume()
    assert differing(snapshot(trainer), middle) == set()
    assert progress_of(trainer) == progress
    train(trainer, END)
    assert differing(snapshot(trainer), end) == set()
    assert progress_of(trainer) == last


def test_no_part_of_the_state_can_be_left_out(saved_run):
    """Neither of what is put back, nor of the file."""
    config, _, (middle, _), _ = saved_run
    trainer = Trainer(config)
    path = trainer.folder.resume
    arrays = read_checkpoint(path)[0]
    for name in arrays:
        with pytest.raises(InputError, match=name.removeprefix("network.")):
            trainer.saver.state.load({other: array for other, array in arrays.items() if other != name}, path)
    named = trainer.saver.state.named
    assert named.keys() >= {name for name in middle if name.startswith(("optimizer.", "other."))}
    for name in list(named):
        spoil(trainer)
        parameter = named.pop(name)
        trainer.saver.state.load(arrays, path)
        assert differing(snapshot(trainer), middle) == {name}
        named[name] = parameter


# --- workers


class Workers:
    """Stands for worker `rank` of several, whose own values are 10 apart."""

    def __init__(self, rank, size):
        self.rank, self.size = rank, size

    def gather(self, array):
        return np.stack([array + 10 * (rank - self.rank) for rank in range(self.size)])


def build(workers):
    """State and moving averages of a network that has BatchNorm."""
    network = nn.SequentialCell(nn.Dense(2, 3), nn.BatchNorm1d(3))
    own = [parameter for parameter in network.get_parameters() if not parameter.requires_grad]
    optimizer = nn.Momentum(network.trainable_params(), 0.1, 0.9)
    scale = ms.Parameter(Tensor(2.0**16), name="loss_scale")
    return RunState(network, optimizer, None, [scale, *own], own, workers), own


def saved_by(size):
    """The arrays that worker 0 of `size` writes; worker r has the averages 10 r and 10 r + 1."""
    state, own = build(Workers(0, size))
    for number, parameter in enumerate(own):
        ops.assign(parameter, Tensor(np.full(3, number, np.float32)))
    arrays = state.arrays()
    return {name: array if isinstance(array, np.ndarray) else array.asnumpy() for name, array in arrays.items()}


@pytest.mark.parametrize(
    ("saved", "resumed", "expected"),
    [
        (2, (0, 2), 0),
        (2, (1, 2), 10),
        (3, (2, 3), 20),
        (2, (0, 1), 5),  # another number of workers: the mean
        (3, (1, 2), 10),
        (1, (1, 2), 0),  # one process: what it had
    ],
)
def test_every_worker_gets_its_own_averages_back(saved, resumed, expected):
    state, own = build(Workers(*resumed))
    arrays = saved_by(saved)
    assert ("workers.own" in arrays) == (saved > 1)
    state.load(arrays, "x")
    assert [parameter.asnumpy().tolist() for parameter in own] == [[expected] * 3, [expected + 1] * 3]
    assert all(name in arrays for name in state.named)


@pytest.mark.parametrize(
    ("chosen", "noticed"),
    [
        (None, False),
        (lambda state, own: state.network[0].weight, True),
        (lambda state, own: state.network[1].beta, True),
        (lambda state, own: state.named["optimizer.moments.0.weight"], True),
        (lambda state, own: state.named["other.loss_scale"], True),
        (lambda state, own: state.pruner.masks[0], True),
        (lambda state, own: own[0], False),  # each worker's own
    ],
    ids=["nothing", "weight", "beta", "momentum", "loss scale", "mask", "moving mean"],
)
def test_workers_compare_what_they_must_have_alike(chosen, noticed):
    """The digest that a worker sends moves with one value of what all share, and with nothing else."""
    workers, sent = Workers(0, 2), []
    workers.check_equal = lambda digest, what: sent.append((digest, what))
    state, own = build(workers)
    state.pruner = SimpleNamespace(masks=[np.ones((3, 2), bool)])
    state.check_equal(5)
    changed = None if chosen is None else chosen(state, own)
    if isinstance(changed, np.ndarray):
        changed[-1, -1] = False
    elif changed is not None:
        value = changed.asnumpy().copy()
        value.reshape(-1)[-1] += 1
        ops.assign(changed, Tensor(value))
    state.check_equal(5)
    assert [what for _, what in sent] == ["weights and optimiser state after step 5"] * 2
    assert (sent[0] != sent[1]) == noticed


def test_a_single_process_compares_nothing():
    state, _ = build(Workers(0, 1))
    state.check_equal(5)  # Workers here has no check_equal
