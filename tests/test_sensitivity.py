"""Sensitivity of single layers: against a plain computation, and the program with its files."""

import json
import sys

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, ops

from src.data import digits
from src.library import RPG
from src.report.pictures import draw_sensitivity
from src.tools import sensitivity as program
from src.training.evaluation import Evaluator
from src.training.sensitivity import layer_sensitivity
from src.weights.trained import load_trained
from tests.in_process import run
from tests.test_library_options import Net


def parameters(random):
    return [Parameter(Tensor(random.standard_normal(shape).astype(np.float32))) for shape in ((6, 10), (4, 5))]


def plainly(values, sparsity):
    """The array without its smallest values, by sorting."""
    order = np.argsort(-np.abs(values).ravel(), kind="stable")
    pruned = np.zeros(values.size, np.float32)
    kept = order[: round((1 - sparsity) * values.size)]
    pruned[kept] = values.ravel()[kept]
    return pruned.reshape(values.shape)


def test_each_layer_alone_is_pruned_and_gets_its_weights_back(rng):
    weights = parameters(rng)
    weights[1].set_data(Tensor(plainly(weights[1].asnumpy(), 0.8)))  # 4 of 20 are left
    before = [weight.asnumpy().copy() for weight in weights]
    calls = []

    def score():
        arrays = [weight.asnumpy() for weight in weights]
        calls.append(sum(not np.array_equal(now, then) for now, then in zip(arrays, before)))
        return float(arrays[0].sum() + 100 * arrays[1].sum())

    result = layer_sensitivity(weights, score, (0.5, 0.9))
    first, second = before
    assert result["score"] == pytest.approx(first.sum() + 100 * second.sum(), rel=1e-5)
    expected = [plainly(first, sparsity).sum() + 100 * second.sum() for sparsity in (0.5, 0.9)]
    assert result["layers"][0]["scores"] == pytest.approx(expected, rel=1e-5)
    expected = [first.sum() + 100 * array.sum() for array in (second, plainly(second, 0.9))]
    assert result["layers"][1]["scores"] == pytest.approx(expected, rel=1e-5)
    assert [layer["nonzeros"] for layer in result["layers"]] == [60, 4]
    assert calls == [0, 1, 1, 1]  # nothing is evaluated where nothing is left to prune
    assert all(np.array_equal(weight.asnumpy(), then) for weight, then in zip(weights, before))


def test_weights_come_back_when_the_evaluation_fails(rng):
    weights = parameters(rng)
    before = [weight.asnumpy().copy() for weight in weights]
    answers = iter([1.0, 1.0])

    with pytest.raises(StopIteration):
        layer_sensitivity(weights, lambda: next(answers))
    assert all(np.array_equal(weight.asnumpy(), then) for weight, then in zip(weights, before))


def test_a_method_of_rpg_measures_the_pruned_layers():
    ms.set_seed(0)
    network = Net()
    pruning = RPG(network, 10, update_interval=2, exclude=["head"])
    result = pruning.sensitivity(lambda: float(np.count_nonzero(network.conv.weight.asnumpy())), (0.5, 0.75))
    assert result["score"] == 72
    assert [(layer["name"], layer["scores"]) for layer in result["layers"]] == [("conv.weight", [36, 18])]


def test_the_program_writes_table_picture_and_result(trained_resnet20, tmp_path):
    ckpt, _ = trained_resnet20
    words = ("src.tools.sensitivity", "--ckpt", ckpt, "--output_path", tmp_path, "--images", 40, "--batch_size", 16)
    answer = run(*words)
    assert answer.code == 0, answer.stderr
    result = json.loads((tmp_path / "last.sensitivity.json").read_text())
    trained = load_trained(ckpt)
    weights = trained.weights()
    assert (result["images"], result["score"]) == (40, top1_of_drawn(trained, 40))
    assert [layer["name"] for layer in result["layers"]] == list(weights)
    assert [layer["nonzeros"] for layer in result["layers"]] == list(map(np.count_nonzero, weights.values()))
    # Layers below 2 % have nothing to lose; the first one has.
    for layer in result["layers"]:
        if layer["nonzeros"] <= 0.02 * layer["weights"]:
            assert layer["scores"] == [result["score"]] * 5
    first = result["layers"][0]
    assert first["nonzeros"] > 0.02 * first["weights"]
    ops.assign(trained.network.conv1.weight, Tensor(plainly(weights[first["name"]], 0.98)))
    assert first["scores"][-1] == top1_of_drawn(trained, 40) != result["score"]
    assert f"top-1 {result['score']:.2f} % as it is, 40 images; most sensitive at 98 %: " in answer.stdout
    assert f"{first['scores'][-1]:.2f}" in next(line for line in answer.stdout.splitlines() if first["name"] in line)
    assert (tmp_path / "last.sensitivity.png").read_bytes() == draw_sensitivity(result)

    again = run(*words)
    assert (again.code, again.stdout) == (2, "")
    assert "last.sensitivity.json exists; replace it with --overwrite" in again.stderr


def top1_of_drawn(trained, count):
    """Accuracy in per cent on the test digits that the seed draws, computed by the network alone."""
    images, labels = digits.arrays("test")
    drawn = np.random.default_rng(trained.config.seed).permutation(len(labels))[:count]
    inputs = (images[drawn].transpose(0, 3, 1, 2) / 255 - digits.MEAN[0]) / digits.STD[0]
    found = trained.network(Tensor(inputs.astype(np.float32))).asnumpy().argmax(1)
    return 100 * np.mean(found == labels[drawn])


def test_an_interrupted_run_leaves_nothing(trained_resnet20, tmp_path, monkeypatch):
    evaluate, calls = Evaluator.__call__, []

    def interrupted(self, dataset):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return evaluate(self, dataset)

    monkeypatch.setattr(Evaluator, "__call__", interrupted)
    words = ["sensitivity", "--ckpt", trained_resnet20[0], "--output_path", tmp_path, "--images", 10]
    monkeypatch.setattr(sys, "argv", list(map(str, words)))
    with pytest.raises(KeyboardInterrupt):
        program.main()
    assert len(calls) == 3
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_named_before_the_work(trained_resnet20, tmp_path):
    answer = run("src.tools.sensitivity", "--ckpt", trained_resnet20[0], "--output_path", tmp_path / "none")
    assert answer.code == 2
    assert answer.stderr == f"error: output_path: the folder {tmp_path / 'none'} does not exist\n"
