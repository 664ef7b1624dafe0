"""Numbers that are none: noted in the step they first occur in, with the layer, and nothing is pruned by them."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, ops

from src.platform.errors import InputError
from src.pruning import rank_term
from src.pruning.rank_term import layer_term
from src.rpg_cell import GramRankTerm, SVDRankTerm
from src.training.amp import LossScale
from src.training.finite import FiniteWatch, check_parameters

NAMES = ("first.weight", "middle.weight", "last.weight")


@pytest.fixture
def parameters():
    weights = [Parameter(Tensor(np.ones((2, 3), np.float32)), name=name) for name in NAMES]
    return [*weights, Parameter(Tensor(np.ones(3, np.float32)), name="last.bias")]


def note(watch, step, loss=1.0, broken=(), value=np.nan):
    gradients = [np.ones((2, 3), np.float32) for _ in NAMES] + [np.ones(3, np.float32)]
    for index in broken:
        gradients[index][1, 1] = value
    watch.note(Tensor([step - 1], ms.int32), Tensor(loss, ms.float32), tuple(map(Tensor, gradients)))


def test_finite_steps_pass(parameters):
    watch = FiniteWatch(parameters)
    for step in (1, 2):
        note(watch, step, loss=1e30)
    watch.check()


@pytest.mark.parametrize(
    ("loss", "broken", "message"),
    [
        (np.nan, (), "step 3: the loss is not finite; lower lr"),
        (-np.inf, (0, 1, 2), r"the loss and the gradient of last\.weight \(and of 2 more of 3 weights\) are not"),
        (1.0, (1,), r"step 3: the gradient of middle\.weight is not finite"),
        (1.0, (0, 1), r"step 3: the gradient of middle\.weight \(and of 1 more of 3 weights\) is not"),
    ],
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_first_bad_step_is_remembered_with_its_layer(parameters, loss, broken, message, value):
    watch = FiniteWatch(parameters)
    note(watch, 1)
    note(watch, 3, loss, broken, value)
    note(watch, 4, np.nan, (0, 1, 2))
    note(watch, 5)
    with pytest.raises(InputError, match=message):
        watch.check()


def test_an_overflow_counts_only_where_the_loss_scale_can_be_lowered_no_more(parameters):
    scale = LossScale()
    watch = FiniteWatch(parameters, scale)
    for step in range(1, 18):  # the scale falls from 2**16 to 1 in sixteen steps
        watch.check()
        note(watch, step, broken=(2,), value=np.inf)
        scale.adjust(Tensor(False))
    with pytest.raises(InputError, match=r"step 17: .*last\.weight .*although the loss scale is at its floor of 1"):
        watch.check()


@pytest.mark.parametrize(("value", "step"), [(2.0**16, 0), (2.0, 0), (1.0, 3)])
def test_an_overflow_that_leaves_no_inf_behind_counts_at_the_floor(parameters, value, step):
    """A device in saturation mode reports it, and all numbers are finite."""
    scale = LossScale()
    ops.assign(scale.scale_value, Tensor(value, ms.float32))
    watch = FiniteWatch(parameters, scale)
    gradients = tuple(Tensor(np.ones(parameter.shape, np.float32)) for parameter in parameters)
    for before, finite in enumerate((True, True, False, True)):
        watch.note(Tensor([before], ms.int32), Tensor(1.0, ms.float32), gradients, Tensor(finite))
    assert int(watch.record.asnumpy()[0]) == step
    if step:
        with pytest.raises(
            InputError, match=r"step 3: a gradient \(the device reports an overflow\) is not finite although"
        ):
            watch.check()


def test_a_broken_parameter_is_named(parameters):
    check_parameters(parameters, 7)
    parameters[1].set_data(Tensor(np.full((2, 3), np.inf, np.float32)))
    with pytest.raises(InputError, match=r"step 7: middle\.weight is not finite"):
        check_parameters(parameters, 7)


def diverge(matrix):
    raise np.linalg.LinAlgError("did not converge")


def not_finite(matrix):
    values, vectors = np.linalg.eigh(matrix.astype(np.float64))
    return values * np.nan, vectors


@pytest.mark.parametrize("failure", [diverge, not_finite])
@pytest.mark.parametrize("shape", [(8, 4, 3, 3), (32, 4, 1, 1)], ids=["wide", "tall"])
def test_a_failing_eigendecomposition_is_retried_by_svd(failure, shape, rng, monkeypatch):
    weight = rng.standard_normal(shape).astype(np.float32)
    expected = layer_term(weight, 0.2)
    monkeypatch.setattr(rank_term, "eigh", failure)
    term = layer_term(weight, 0.2)
    assert term.k == expected.k
    assert not term.failed
    assert term.loss == pytest.approx(expected.loss, rel=1e-5)
    assert term.gradient.dtype == np.float32
    assert np.allclose(term.gradient, expected.gradient, atol=1e-6)


def test_a_layer_that_no_solver_decomposes_is_left_out_and_counted(rng, monkeypatch):
    weights = [rng.standard_normal(shape).astype(np.float32) for shape in ((8, 4, 3, 3), (4, 2, 1, 1), (16, 4, 3, 3))]
    broken = weights[1].size
    decompose = rank_term.decompose
    monkeypatch.setattr(rank_term, "decompose", lambda m: None if m.size == broken else decompose(m))
    term = GramRankTerm(0.2)
    loss, gradients = ms.value_and_grad(term, (0, 1, 2))(*map(Tensor, weights))
    assert int(term.failures) == 1
    # it counts in the mean, so that workers agree on the mean without asking each other
    assert float(loss) == pytest.approx((layer_term(weights[0], 0.2).loss + layer_term(weights[2], 0.2).loss) / 3)
    assert [bool(gradient.asnumpy().any()) for gradient in gradients] == [True, False, True]


def test_the_svd_op_that_gives_no_numbers_is_left_out_and_counted(rng, monkeypatch):
    weights = [rng.standard_normal(shape).astype(np.float32) for shape in ((8, 4, 3, 3), (4, 2, 1, 1))]
    term = SVDRankTerm(0.2)
    approximate = term.approximate
    term.approximate = lambda m: approximate(m) * (np.nan if m.shape[0] == 4 else 1.0)
    loss, gradients = ms.value_and_grad(term, (0, 1))(*map(Tensor, weights))
    assert int(term.failures) == 1
    assert float(loss) == pytest.approx(layer_term(weights[0], 0.2).loss / 2, rel=1e-4)
    assert [bool(gradient.asnumpy().any()) for gradient in gradients] == [True, False]
