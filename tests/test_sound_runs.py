"""Runs that go wrong say so, leave what was good, and deploy nothing that is not what was trained."""

import json

import numpy as np
import pytest
from mindspore import Tensor, ops
from tiny_train import Tiny

from src.export.formats import load_for_export
from src.models import MODELS
from src.platform.errors import InputError
from src.pruning import rank_term
from src.run.trainer import Trainer
from src.weights.checkpoint import read_checkpoint, write_checkpoint


@pytest.fixture
def small_run(small_run, monkeypatch):
    """Runs of a network that compiles in a second."""
    monkeypatch.setitem(MODELS, "resnet20", Tiny)
    return small_run


class Faint(Tiny):
    """Its second convolution is so faint that one threshold over all layers leaves nothing of it."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.conv2.weight.set_data(self.conv2.weight * 1e-3)


def checkpoints(folder):
    return {file.name: file.read_bytes() for file in folder.path.glob("*.ckpt")}


def poison(trainer, step, name, value):
    """Before a step, put a value that is not finite, or too large, into one parameter."""
    plain = trainer.step._plain
    parameter = trainer.network.parameters_dict()[name]

    def poisoned(images, labels):
        if trainer.step.step == step:
            ops.assign(parameter, Tensor(np.full(parameter.shape, value, np.float32)))
        return plain(images, labels)

    trainer.step._plain = poisoned


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("classifier.bias", np.nan, r"training: step 14: the loss and the gradient of classifier\.weight .*lower lr"),
        # squares beyond float32: a BatchNorm of finite outputs, whose moving variance is not
        pytest.param(
            *("conv1.weight", 1e25, r"training: step (14|22): .*(gradient of|moving_variance)"), marks=pytest.mark.slow
        ),
    ],
)
def test_what_is_not_finite_stops_the_run_and_leaves_the_last_epoch(small_run, name, value, message):
    trainer = Trainer(small_run())
    poison(trainer, 14, name, value)  # in the second epoch of eleven steps
    finish, kept = trainer._finish_epoch, {}

    def finish_and_look(metrics):
        finish(metrics)
        kept.update(checkpoints(trainer.folder))

    trainer._finish_epoch = finish_and_look
    with pytest.raises(InputError, match=message):
        trainer.run()
    assert kept
    assert checkpoints(trainer.folder) == kept
    assert all(np.isfinite(tensor).all() for tensor in read_checkpoint(trainer.folder.resume)[0].values())


def test_what_is_not_finite_is_not_saved_between_steps_either(small_run):
    trainer = Trainer(small_run(save_steps=1))
    poison(trainer, 2, "classifier.bias", np.nan)
    with pytest.raises(InputError, match=r"training: step 2: "):
        trainer.run()
    for path, step in ((trainer.folder.resume, 1), (trainer.folder.previous, 0)):
        arrays, progress = read_checkpoint(path)
        assert progress["step"] == step
        assert all(np.isfinite(array).all() for array in arrays.values())


def test_a_mask_update_changes_nothing_by_gradients_that_are_not_finite(small_run):
    trainer = Trainer(small_run())
    poison(trainer, 3, "norm.gamma", np.inf)  # the update comes at step 4
    before = [mask.copy() for mask in trainer.pruner.masks]
    with pytest.raises(InputError, match=r"training: step 3: "):
        trainer.run()
    assert all(np.array_equal(a, b) for a, b in zip(before, trainer.pruner.masks))


def test_a_collapsing_layer_is_reported_or_kept(small_run, monkeypatch, capfd):
    monkeypatch.setitem(MODELS, "resnet20", Faint)
    settings = {"method": "gmp", "sparsity": 0.9, "epoch_size": 1, "update_interval": 2}
    trainer = Trainer(small_run(**settings))
    result = trainer.run()
    empty = [layer["name"] for layer in result["layers"] if not layer["nonzeros"]]
    warnings = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert empty
    for name in empty:
        assert any(f": {name} has lost its last weight" in line for line in warnings)

    trainer = Trainer(small_run(**settings, min_layer_density=0.02, overwrite=True))
    trainer.run()
    assert "has lost its last weight" not in capfd.readouterr().err
    assert trainer.pruner.kept == round(0.1 * sum(mask.size for mask in trainer.pruner.masks))
    assert all(mask.sum() >= np.ceil(0.02 * mask.size) for mask in trainer.pruner.masks)


def test_floors_that_cannot_be_met_are_refused_at_the_start(small_run):
    with pytest.raises(InputError, match=r"min_layer_density 0\.03 keeps at least .* more than the .* that sparsity"):
        Trainer(small_run(min_layer_density=0.03))


def test_failed_decompositions_are_counted_in_the_metrics(small_run, monkeypatch):
    decompose = rank_term.decompose
    monkeypatch.setattr(rank_term, "decompose", lambda m: None if m.shape == (8, 9) else decompose(m))
    trainer = Trainer(small_run(epoch_size=2, update_interval=5))
    trainer.run()
    lines = [json.loads(line) for line in trainer.folder.metrics.read_text().splitlines()]
    assert [line["rank_failures"] for line in lines] == [2, 1]  # updates at steps 5 and 10; 15


def test_the_written_checkpoint_is_compared_with_the_network(small_run):
    trainer = Trainer(small_run(epoch_size=1, update_interval=2))
    finish = trainer._finish_epoch

    def finish_and_change(metrics):
        finish(metrics)
        tensors, description = read_checkpoint(trainer.folder.last)
        tensors["norm.beta"][3] += 1e-3
        write_checkpoint(trainer.folder.last, tensors, description)

    trainer._finish_epoch = finish_and_change
    with pytest.raises(RuntimeError, match=r"norm\.beta is not that of the trained network"):
        trainer.run()


@pytest.mark.parametrize("value", [0.1, 0.0])
def test_a_checkpoint_with_other_zeros_is_not_exported(trained_resnet20, tmp_path, value):
    tensors, description = read_checkpoint(trained_resnet20[0])
    weight = tensors["layer2.0.conv1.weight"].reshape(-1)
    weight[np.flatnonzero((weight == 0) == (value != 0))[0]] = value
    write_checkpoint(tmp_path / "changed.ckpt", tensors, description)
    with pytest.raises(InputError, match=r"layer2\.0\.conv1\.weight has \d+ non-zero weights, not the \d+ counted"):
        load_for_export(tmp_path / "changed.ckpt")
    load_for_export(trained_resnet20[0])
