"""The objective: both solvers against each other, inside and outside a graph, and the sum of its parts."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from src.config.keys import resolve
from src.library import RPG
from src.platform.parallel import SINGLE
from src.pruning.pruner import convolution_weights, transposed_groups
from src.pruning.rank_term import layer_term
from src.report.sparsity import sparsity_report
from src.rpg_cell import GramRankTerm, RPGWithLossCell, SVDRankTerm, build_rank_term
from src.run.build import build_step
from tests.streams import random_batches

SHAPES = [(8, 4, 3, 3), (32, 4, 1, 1), (1, 5, 3, 3), (5, 16, 3, 3)]


def term_and_gradients(cell, weights):
    return ms.value_and_grad(cell, tuple(range(len(weights))))(*weights)


@pytest.fixture
def weights(rng):
    return [Tensor((rng.standard_normal(shape) * (rng.random(shape) < 0.5)).astype(np.float32)) for shape in SHAPES]


def test_solvers_agree(weights):
    loss, gradients = term_and_gradients(GramRankTerm(0.2), weights)
    other_loss, other_gradients = term_and_gradients(SVDRankTerm(0.2), weights)
    assert float(loss) == pytest.approx(float(other_loss), abs=1e-6)
    for gradient, other in zip(gradients, other_gradients):
        assert np.allclose(gradient.asnumpy(), other.asnumpy(), atol=1e-5)


def test_network_term_is_the_mean_of_the_layers(weights):
    terms = [layer_term(weight.asnumpy(), 0.2) for weight in weights]
    loss, gradients = term_and_gradients(GramRankTerm(0.2), weights)
    assert float(loss) == pytest.approx(np.mean([term.loss for term in terms]), rel=1e-6)
    for gradient, term in zip(gradients, terms):
        assert np.allclose(gradient.asnumpy(), term.gradient / len(terms), atol=1e-7)


@pytest.mark.parametrize("solver", [GramRankTerm, SVDRankTerm])
def test_layers_that_take_no_part_do_not_count(solver, weights):
    out = [np.zeros((4, 3, 3, 3)), np.full((4, 3, 3, 3), np.nan), np.full((4, 3, 3, 3), np.inf)]
    loss, gradients = term_and_gradients(solver(0.2), weights + [Tensor(w.astype(np.float32)) for w in out])
    alone, _ = term_and_gradients(solver(0.2), weights)
    assert float(loss) == pytest.approx(float(alone), rel=1e-6)
    assert all(not gradient.asnumpy().any() for gradient in gradients[len(weights) :])


@pytest.mark.parametrize("solver", [GramRankTerm, SVDRankTerm])
def test_no_layer_takes_part(solver):
    loss, gradients = term_and_gradients(solver(0.2), [Tensor(np.zeros((4, 3, 3, 3), np.float32))] * 2)
    assert float(loss) == 0
    assert all(not gradient.asnumpy().any() for gradient in gradients)


def test_svd_solver_compiles(weights):
    cell = SVDRankTerm(0.2)

    @ms.jit
    def compiled(*weights):
        return cell(*weights)

    assert float(compiled(*weights)) == pytest.approx(float(cell(*weights)), rel=1e-6)


def test_auto_runs_without_an_svd_op():
    assert isinstance(build_rank_term("auto", 0.1), GramRankTerm)
    assert isinstance(build_rank_term("svd", 0.1), SVDRankTerm)


@pytest.mark.parametrize("solver", ["gram", "svd"])
def test_objective_is_task_plus_lambda_times_rank(solver, rng):
    weight = Parameter(Tensor(rng.standard_normal((4, 3, 1, 1)).astype(np.float32)), name="weight")

    class Task(nn.Cell):
        def __init__(self):
            super().__init__()
            self.weight = weight

        def construct(self, images, labels):
            return ops.sum(self.weight * images) - labels

    task, rank_term = Task(), build_rank_term(solver, 0.3)
    objective = RPGWithLossCell(task, rank_term, 2.5, [weight])
    images, labels = Tensor(np.full((4, 3, 1, 1), 0.5, np.float32)), Tensor(1.0)
    total, (gradient,) = ms.value_and_grad(objective, None, [weight])(images, labels)
    term = layer_term(weight.asnumpy(), 0.3)
    assert float(total) == pytest.approx(float(task(images, labels)) + 2.5 * term.loss, rel=1e-5)
    assert np.allclose(gradient.asnumpy(), 0.5 + 2.5 * term.gradient, atol=1e-6)
    assert weight.name == "weight"  # wrapping renames nothing: checkpoints keep the network's own keys


class Small(nn.Cell):
    """Two convolutions and two dense layers."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3, stride=2)
        self.hidden, self.head = nn.Dense(6, 8), nn.Dense(8, 4)

    def construct(self, x):
        x = self.second(ops.relu(self.first(x))).mean((2, 3))
        return self.head(ops.relu(self.hidden(x)))


def step_of_a_run(network, optimizer):
    config = resolve({"rank_interval": 1, "tail_energy": 0.3})
    return build_step(config, network, optimizer, None, None, None, None, SINGLE)


def step_of_the_library(network, optimizer):
    pruning = RPG(network, 12, update_interval=2, rank_interval=1, tail_energy=0.3)
    return pruning.train_step(nn.CrossEntropyLoss(), optimizer).inner


@pytest.mark.parametrize("build", [step_of_a_run, step_of_the_library])
def test_the_rank_term_of_a_network_is_that_of_its_convolutions_alone(build):
    ms.set_seed(0)
    network = Small()
    convolutions = [network.first.weight.asnumpy().copy(), network.second.weight.asnumpy().copy()]
    step = build(network, nn.SGD(network.trainable_params(), 0.01))
    step(*random_batches(1)[0])
    expected = np.mean([layer_term(weight, 0.3).loss for weight in convolutions])
    assert float(step.last_rank_loss) == pytest.approx(expected, rel=1e-5)


TRANSPOSED = {
    "1d": lambda: nn.Conv1dTranspose(6, 4, 3),
    "2d": lambda: nn.Conv2dTranspose(6, 4, 3),
    "3d": lambda: nn.Conv3dTranspose(6, 4, 2),
    "grouped": lambda: nn.Conv2dTranspose(6, 4, 3, group=2),
    "grouped 3d": lambda: nn.Conv3dTranspose(6, 9, 2, group=3),
    "depthwise": lambda: nn.Conv2dTranspose(6, 6, 3, group=6),
}


def rows_of_outputs(cell):
    """(matrix, positions): row by row the weights that reach an output channel, and where they lie in the weight.

    A group's inputs reach the outputs of that group only; the weight's second dimension counts them within it.
    """
    inputs, outputs, group = cell.in_channels // cell.group, cell.out_channels // cell.group, cell.group
    kernel = list(np.ndindex(*cell.weight.shape[2:]))
    positions = [
        [(g * inputs + i, o, *place) for i in range(inputs) for place in kernel]
        for g in range(group)
        for o in range(outputs)
    ]
    weight = cell.weight.asnumpy().astype(np.float64)
    return np.array([[weight[position] for position in row] for row in positions]), positions


def tail_of(matrix, tail_energy):
    """(loss, gradient, k) of the rank term, as its definition says, by a full SVD."""
    norm = np.linalg.norm(matrix)
    left, values, right = np.linalg.svd(matrix / norm, full_matrices=False)
    k = min(range(len(values)), key=lambda k: abs(np.sum(values[k:] ** 2) - tail_energy))
    tail = (left[:, k:] * values[k:]) @ right[k:]
    outer = -2 * tail
    return -np.sum(tail**2), (outer - np.sum(outer * matrix / norm) * matrix / norm) / norm, k


@pytest.mark.parametrize("solver", ["gram", "svd"])
@pytest.mark.parametrize("kind", TRANSPOSED)
def test_a_transposed_convolution_has_one_row_per_output_channel(kind, solver):
    ms.set_seed(2)
    cell = TRANSPOSED[kind]()
    matrix, positions = rows_of_outputs(cell)
    loss, gradient, k = tail_of(matrix, 0.3)
    transposed = transposed_groups(cell)
    objective = RPGWithLossCell(
        lambda: Tensor(0.0), build_rank_term(solver, 0.3), 2.0, convolution_weights(cell), transposed=transposed
    )
    total, (ours,) = ms.value_and_grad(objective, None, [cell.weight])()
    assert float(total) == pytest.approx(2 * loss, rel=1e-5)
    gradients = np.array([[ours.asnumpy()[position] for position in row] for row in positions])
    assert np.allclose(gradients, 2 * gradient, atol=1e-5 * np.abs(gradient).max())
    (layer,) = sparsity_report({cell.weight.name: cell.weight.asnumpy()}, 0.3, transposed)["layers"]
    assert (layer["tail_rank"], layer["rank"]) == (k, np.linalg.matrix_rank(matrix))
    assert layer["max_rank"] == min(matrix.shape)


@pytest.mark.parametrize("kind", TRANSPOSED)
def test_an_output_channel_depends_on_its_row_alone(kind, rng):
    """What the rows are is asked of the layer itself: only their own channel changes with them."""
    cell = TRANSPOSED[kind]()
    positions = rows_of_outputs(cell)[1]
    sides = {"1d": (5,), "3d": (3, 3, 3), "grouped 3d": (3, 3, 3)}.get(kind, (5, 5))
    image = Tensor(rng.standard_normal((1, cell.in_channels, *sides)).astype(np.float32))
    before, weight = cell(image).asnumpy(), cell.weight.asnumpy().copy()
    for channel, row in enumerate(positions):
        changed = weight.copy()
        for position in row:
            changed[position] += 1
        cell.weight.set_data(Tensor(changed))
        different = np.abs(cell(image).asnumpy() - before).max((0, *range(2, before.ndim))) > 1e-6
        assert np.flatnonzero(different).tolist() == [channel]


def test_workers_share_the_layers_out_by_the_size_of_their_matrices():
    """From two channels to 64 the matrices have the same shape, and so the same cost, in both layouts."""
    cells = nn.CellList([nn.Conv2dTranspose(2, 64, 3), nn.Conv2d(2, 64, 3)])
    objective = RPGWithLossCell(
        None, build_rank_term("gram", 0.3), 1.0, convolution_weights(cells), transposed=transposed_groups(cells)
    )
    assert len({objective._cost(weight) for weight in objective.weights}) == 1
