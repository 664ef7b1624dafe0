"""The learning rate of every step, against values worked out by hand; optimisers and clipping, against numpy."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from src.training.clipping import clip_by_global_norm
from src.training.optimizer import build_optimizer, learning_rates


@pytest.mark.parametrize(
    ("peak", "total", "warmup", "expected"),
    [
        # Without warm-up: cos at 0, 45, 90 and 135 degrees.
        (1.0, 4, 0, [1.0, 0.8535534, 0.5, 0.1464466]),
        # Four steps up to the peak, then the same cosine from the peak on.
        (1.0, 8, 4, [0.25, 0.5, 0.75, 1.0, 1.0, 0.8535534, 0.5, 0.1464466]),
        (0.4, 5, 2, [0.2, 0.4, 0.4, 0.3, 0.1]),  # cos at 0, 60 and 120 degrees
        (0.1, 3, 1, [0.1, 0.1, 0.05]),
        (0.3, 3, 3, [0.1, 0.2, 0.3]),  # warm-up to the end
        (0.3, 2, 3, [0.1, 0.2]),  # and beyond
    ],
)
def test_linear_ramp_then_cosine_over_what_remains(peak, total, warmup, expected):
    assert learning_rates(peak, total, warmup) == pytest.approx(expected, abs=1e-7)


def test_imagenet_recipe_reaches_its_peak_and_has_the_released_mean():
    """100 epochs of 1,251 steps, five of them warm-up: the ramp's mean is half the peak, and so is the cosine's."""
    rates = learning_rates(0.4, 100 * 1251, 5 * 1251)
    assert max(rates) == rates[6254] == rates[6255] == 0.4
    assert sum(rates) / len(rates) == pytest.approx(0.2, abs=1e-5)
    assert rates[6255 + 118845 // 2] == pytest.approx(0.2, abs=1e-5)  # half-way through the cosine
    assert rates[-1] < 1e-10


# --- optimisers

RATES, DECAY = [0.1, 0.03, 0.2], 0.05


class Three(nn.Cell):
    """A weight, with zeros in its first row, a bias, and positions as a transformer has them."""

    def __init__(self, rng):
        super().__init__()
        weight = rng.standard_normal((3, 4)).astype(np.float32)
        weight[0] = 0
        self.weight = Parameter(Tensor(weight), name="weight")
        self.bias = Parameter(Tensor(rng.standard_normal(4).astype(np.float32)), name="bias")
        self.positions = Parameter(Tensor(rng.standard_normal((1, 2, 4)).astype(np.float32)), name="positions")

    def no_weight_decay(self):
        return {"positions"}


def momentum_step(value, gradient, state, rate, decay, step):
    state[0] = 0.8 * state[0] + gradient + decay * value
    return value - rate * state[0]


def sgd_step(value, gradient, state, rate, decay, step):
    return value - rate * (gradient + decay * value)


def adamw_step(value, gradient, state, rate, decay, step):
    """Algorithm 2 of Loshchilov and Hutter (2019)."""
    state[0] = 0.9 * state[0] + 0.1 * gradient
    state[1] = 0.999 * state[1] + 0.001 * gradient**2
    first, second = state[0] / (1 - 0.9**step), state[1] / (1 - 0.999**step)
    return value - rate * (first / (np.sqrt(second) + 1e-8) + decay * value)


def lion_step(value, gradient, state, rate, decay, step):
    """Program 1 of Chen et al. (2023)."""
    update = np.sign(0.9 * state[0] + 0.1 * gradient)
    state[0] = 0.99 * state[0] + 0.01 * gradient
    return value - rate * (update + decay * value)


@pytest.mark.parametrize(
    ("name", "oracle"), [("momentum", momentum_step), ("sgd", sgd_step), ("adamw", adamw_step), ("lion", lion_step)]
)
def test_optimisers_follow_their_formulas_and_decay_weights_alone(name, oracle, rng):
    network = Three(rng)
    optimizer = build_optimizer(network, RATES, 0.8, False, DECAY, name)
    assert list(optimizer.parameters) == network.trainable_params()
    decays = (DECAY, 0.0, 0.0)
    expected = [parameter.asnumpy().astype(np.float64) for parameter in optimizer.parameters]
    states = [[np.zeros(value.shape), np.zeros(value.shape)] for value in expected]

    @ms.jit
    def train(*gradients):
        return optimizer(gradients)

    for step, rate in enumerate(RATES, start=1):
        gradients = [rng.standard_normal(value.shape).astype(np.float32) for value in expected]
        gradients[0][0] = 0  # as behind a mask
        train(*map(Tensor, gradients))
        expected = [
            oracle(value, gradient, state, rate, decay, step)
            for value, gradient, state, decay in zip(expected, gradients, states, decays)
        ]
        for parameter, value in zip(optimizer.parameters, expected):
            np.testing.assert_allclose(parameter.asnumpy(), value, atol=2e-6)
        assert not network.weight.asnumpy()[0].any()
        assert int(optimizer.global_step.asnumpy()[0]) == step


# --- clipping


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e12])
def test_gradients_are_clipped_by_the_norm_of_all_of_them(scale, rng):
    gradients = [(scale * rng.standard_normal(shape)).astype(np.float32) for shape in ((4, 3), (5,), ())]
    norm = np.sqrt(sum((gradient.astype(np.float64) ** 2).sum() for gradient in gradients))

    @ms.jit
    def clip(*gradients):
        return clip_by_global_norm(gradients, 0.5)

    for gradient, clipped in zip(gradients, clip(*map(Tensor, gradients))):
        if norm <= 0.5:
            assert np.array_equal(clipped.asnumpy(), gradient)
        else:
            np.testing.assert_allclose(clipped.asnumpy(), gradient * (0.5 / norm), rtol=1e-5)
