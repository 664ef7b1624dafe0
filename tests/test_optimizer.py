"""The learning rate of every step, against values worked out by hand."""

import pytest

from src.training.optimizer import learning_rates


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
