"""The plan of a run: what it says of the layers is true of the masks that the run ends with."""

import math

import numpy as np
import pytest
from mindspore import Tensor

from src.config.keys import resolve
from src.run.build import build_parts
from src.run.plan import format_plan

WORDS = {"global": "kept at the end: layer at least, total exactly", "erk": "kept at the end"}


@pytest.mark.parametrize(("distribution", "least"), [("global", 0.0), ("global", 0.004), ("erk", 0.0)])
def test_the_weights_that_are_left_at_the_end(distribution, least, rng):
    values = {"distribution": distribution, "min_layer_density": least, "update_interval": 300, "dry_run": True}
    parts = build_parts(resolve(values))
    table = format_plan(parts).partition("kept at start")[2].split("\n\n")[0].splitlines()
    assert table[0].strip() == WORDS[distribution]
    *layers, total = (line.split() for line in table[2:])
    assert [row[0] for row in layers] == [weight.name for weight in parts.pruner.weights]
    if distribution == "global":
        assert [int(row[-1]) for row in layers] == [math.ceil(least * int(row[2])) for row in layers]
    assert total[0] == "total"

    for step in (300, 600):  # of 880, with a window to 616
        gradients = [Tensor(rng.standard_normal(w.shape).astype(np.float32)) for w in parts.pruner.weights]
        parts.pruner.update(step, gradients, [[]] * len(gradients))
    kept = [np.count_nonzero(mask) for mask in parts.pruner.masks]
    assert int(total[-1]) == sum(kept) == round(0.02 * int(total[1]))
    for row, count in zip(layers, kept):
        assert count == int(row[-1]) if distribution == "erk" else count >= int(row[-1])
