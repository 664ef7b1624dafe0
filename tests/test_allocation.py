"""Layer budgets: exact sums, never more than a layer has, and the distributions' own laws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.pruning.allocation import (
    SAFE,
    Allocation,
    erk_budgets,
    global_masks,
    layer_budgets,
    layer_floors,
    raise_to_floors,
    safe_floors,
    split_schedule,
    total_budget,
    uniform_budgets,
)
from src.pruning.schedule import PruningSchedule

SHAPES = [(16, 3, 3, 3), (32, 16, 3, 3), (64, 32, 1, 1), (10, 64)]


def sizes(shapes):
    return [int(np.prod(shape)) for shape in shapes]


shape = st.tuples(st.integers(1, 64), st.integers(1, 64), st.integers(1, 3), st.integers(1, 3))
shapes = st.lists(shape | st.tuples(st.integers(1, 64), st.integers(1, 64)), min_size=1, max_size=8)


@given(shapes, st.floats(0, 1))
def test_erk_is_exact_and_bounded(shapes, density):
    total = total_budget(sizes(shapes), density)
    budgets = erk_budgets(shapes, total)
    assert sum(budgets) == total
    assert all(0 <= budget <= size for budget, size in zip(budgets, sizes(shapes)))


@given(shapes, st.floats(0, 1))
def test_uniform_is_exact_and_bounded(shapes, density):
    total = total_budget(sizes(shapes), density)
    if len(shapes) > 1 and total < sizes(shapes)[0]:
        with pytest.raises(ValueError, match="first layer"):
            uniform_budgets(shapes, total)
        return
    budgets = uniform_budgets(shapes, total)
    assert sum(budgets) == total
    assert all(0 <= budget <= size for budget, size in zip(budgets, sizes(shapes)))
    if len(shapes) > 1:
        assert budgets[0] == sizes(shapes)[0]


def test_erk_follows_the_sum_of_the_dimensions():
    budgets = np.array(erk_budgets(SHAPES, total_budget(sizes(SHAPES), 0.05)))
    per_dimension = budgets / np.array([sum(shape) for shape in SHAPES])
    assert np.ptp(per_dimension) < 0.05 * per_dimension.mean()


def test_erk_caps_small_layers_at_dense():
    budgets = erk_budgets(SHAPES, total_budget(sizes(SHAPES), 0.5))
    assert budgets[0] == sizes(SHAPES)[0]
    assert sum(budgets) == total_budget(sizes(SHAPES), 0.5)


def test_uniform_gives_the_rest_one_density():
    budgets = uniform_budgets(SHAPES, total_budget(sizes(SHAPES), 0.2))
    densities = [budget / size for budget, size in zip(budgets[1:], sizes(SHAPES)[1:])]
    assert np.ptp(densities) < 0.001


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_global_masks_keep_the_largest_of_the_living(seed, density):
    random = np.random.default_rng(seed)
    masks = [random.random(shape) < 0.7 for shape in SHAPES]
    weights = [random.standard_normal(shape).astype(np.float32) * mask for shape, mask in zip(SHAPES, masks)]
    alive = sum(mask.sum() for mask in masks)
    total = int(density * alive)
    chosen = global_masks(weights, masks, total)
    assert sum(mask.sum() for mask in chosen) == total
    assert all(not (new & ~old).any() for new, old in zip(chosen, masks))
    inside = np.concatenate([np.abs(w[new]) for w, new in zip(weights, chosen)])
    outside = np.concatenate([np.abs(w[old & ~new]) for w, old, new in zip(weights, masks, chosen)])
    if inside.size and outside.size:
        assert inside.min() >= outside.max()


@pytest.mark.parametrize(
    ("sizes", "least", "total", "floors"),
    [
        ((10, 1000), 0.0, 5, [0, 0]),
        ((10, 1000), 1e-12, 5, [1, 1]),  # any floor at all keeps one weight
        ((10, 1000), 0.01, 11, [1, 10]),
        ((100, 300), 0.07, 28, [7, 21]),
        ((3,), 0.5, 2, [2]),
    ],
)
def test_floors(sizes, least, total, floors):
    assert layer_floors(sizes, least, total) == floors


@pytest.mark.parametrize(("sizes", "least", "total"), [((10, 1000), 0.5, 504), ((1, 1, 1), 1e-6, 2)])
def test_floors_that_exceed_the_total_are_refused(sizes, least, total):
    with pytest.raises(ValueError, match=r"min_layer_density .* keeps at least"):
        layer_floors(sizes, least, total)


@pytest.mark.parametrize(
    ("total", "floors"),
    [
        (1000, [24, 53, 97, 73]),
        (61, [1, 3, 5, 4]),
        (8, [1, 1, 1, 1]),
        (4, [1, 1, 1, 1]),
        (3, [0, 0, 0, 0]),  # fewer weights than layers
    ],
)
def test_safe_floors(total, floors):
    assert safe_floors(SHAPES, total) == floors


def test_safe_floors_are_a_quarter_of_erk():
    for total in (100, 1000, 5000):
        quarters = np.array(erk_budgets(SHAPES, total // 4))
        assert np.abs(quarters - safe_floors(SHAPES, total)).max() <= 1


@given(shapes, st.floats(0, 1), st.floats(0, 1))
def test_safe_floors_always_fit_and_never_rise_as_the_total_falls(shapes, density, later):
    total = total_budget(sizes(shapes), density)
    floors, afterwards = safe_floors(shapes, total), safe_floors(shapes, int(later * total))
    assert sum(floors) <= total
    assert all(after <= floor <= size for after, floor, size in zip(afterwards, floors, sizes(shapes)))
    assert total < len(shapes) or min(floors) >= 1


@given(shapes, st.floats(0, 1), st.sampled_from(["erk", "uniform"]))
def test_a_distribution_is_as_ever_but_for_layers_that_it_would_empty(shapes, density, distribution):
    total = total_budget(sizes(shapes), density)
    if distribution == "uniform" and sizes(shapes)[0] > total:
        return  # its first layer, dense, does not fit
    plain, safe = (layer_budgets(distribution, shapes, total, least) for least in (0.0, SAFE))
    first = plain[0] if distribution == "uniform" else 0
    rest = len(shapes) - (distribution == "uniform")
    if min(plain) > 0 or total - first < rest:
        assert safe == plain
    else:
        assert min(safe) == 1
    assert sum(safe) == total


@pytest.mark.parametrize("least", [0.0, SAFE])
def test_one_threshold_leaves_a_layer_of_small_weights_its_safe_floor(least, rng):
    weights = [scale * rng.standard_normal(shape) for scale, shape in zip((1, 1, 1e-6, 1), SHAPES)]
    total = total_budget(sizes(SHAPES), 0.1)
    masks = Allocation("global", least).masks(weights, [np.ones(shape, bool) for shape in SHAPES], total)
    assert sum(map(np.count_nonzero, masks)) == total
    assert np.count_nonzero(masks[2]) == (safe_floors(SHAPES, total)[2] if least else 0)


@pytest.mark.parametrize(
    ("budgets", "floors", "sizes", "raised"),
    [
        ([5, 5], [0, 0], [10, 10], [5, 5]),
        ([9, 1], [2, 2], [10, 10], [8, 2]),
        ([0, 10, 20], [3, 0, 0], [10, 10, 50], [3, 9, 18]),
        ([0, 4, 4], [2, 4, 2], [9, 9, 9], [2, 4, 2]),  # exactly enough
        ([0, 10, 10], [1, 0, 0], [10, 10, 10], [1, 10, 9]),  # the remainder goes to the earlier layer
    ],
)
def test_layers_below_their_floor_take_from_the_others(budgets, floors, sizes, raised):
    assert raise_to_floors(budgets, floors, sizes) == raised


def test_uniform_gives_up_nothing_of_its_dense_first_layer():
    total = total_budget(sizes(SHAPES), 0.1)
    assert layer_budgets("uniform", SHAPES, total, 0.04)[0] == sizes(SHAPES)[0]
    with pytest.raises(ValueError, match="more than the other layers can spare"):
        layer_budgets("uniform", SHAPES, total, 0.06)


@given(shapes, st.floats(0.1, 1), st.floats(0, 0.2))
def test_budgets_with_floors_are_exact_and_meet_them(shapes, density, least):
    total = total_budget(sizes(shapes), density)
    try:
        floors = layer_floors(sizes(shapes), least, total)
    except ValueError:
        return
    budgets = layer_budgets("erk", shapes, total, least)
    assert sum(budgets) == total
    assert all(floor <= budget <= size for floor, budget, size in zip(floors, budgets, sizes(shapes)))


@given(st.integers(0, 2**32 - 1), st.floats(0.02, 1), st.floats(0, 0.01))
def test_global_masks_with_floors_are_the_best_that_meet_them(seed, density, least):
    random = np.random.default_rng(seed)
    masks = [random.random(shape) < 0.7 for shape in SHAPES]
    # the second layer is so small that without a floor it dies
    weights = [random.random(shape, np.float32) * scale for shape, scale in zip(SHAPES, (1, 1e-3, 1, 1))]
    total = int(density * sum(mask.sum() for mask in masks))
    floors = layer_floors(sizes(SHAPES), least, total)
    chosen = global_masks(weights, masks, total, floors)
    counts = [np.count_nonzero(mask) for mask in chosen]
    assert sum(counts) == total
    assert all(count >= floor for count, floor in zip(counts, floors))
    assert all(not (new & ~old).any() for new, old in zip(chosen, masks))
    # No swap helps: what a layer above its floor keeps least is not below what any layer leaves out.
    spare = [w[new].min() for w, new, n, floor in zip(weights, chosen, counts, floors) if n > floor]
    outside = [w[old & ~new].max() for w, old, new in zip(weights, masks, chosen) if (old & ~new).any()]
    if spare and outside:
        assert min(spare) >= max(outside)


@given(st.lists(st.integers(1, 5000), min_size=2, max_size=8), st.floats(0.01, 1), st.data())
def test_groups_with_densities_of_their_own_meet_the_total_exactly(layers, density, data):
    own = data.draw(st.dictionaries(st.integers(0, len(layers) - 1), st.floats(0.001, 1), max_size=len(layers) - 1))
    schedule = PruningSchedule(100, 10, density, 0.3, 0.9, 0.9)
    taken = {index: max(1, round(own[index] * layers[index])) for index in own}
    others = sum(size for index, size in enumerate(layers) if index not in own)
    if own and not 0 < total_budget(layers, density) - sum(taken.values()) <= others:
        with pytest.raises(ValueError, match="the densities of single layers take"):
            split_schedule(layers, schedule, own)
        return
    groups = split_schedule(layers, schedule, own)
    assert sorted(index for group in groups for index in group.indices) == list(range(len(layers)))
    assert sum(group.budget_at(100) for group in groups) == total_budget(layers, density)
    for group in groups:
        budgets = [group.budget_at(step) for step in range(0, 101, 10)]
        assert budgets == sorted(budgets, reverse=True)  # a weight that is gone stays out of the budgets
        assert budgets[0] == group.size == sum(layers[index] for index in group.indices)
        for index in set(own) & set(group.indices):
            assert budgets[-1] == taken[index]


@pytest.mark.parametrize("distribution", ["global", "uniform", "erk"])
@pytest.mark.parametrize("least", [0.0, 0.04])
def test_an_allocation_keeps_the_largest_living_weights_of_each_layer(distribution, least, rng):
    """Of scales so different that one threshold alone would leave the first layer with nothing."""
    total = total_budget(sizes(SHAPES), 0.1)
    weights = [scale * rng.standard_normal(shape) for scale, shape in zip((1e-6, 1, 1, 1), SHAPES)]
    living = [rng.random(shape) < 0.9 for shape in SHAPES]
    living[0][:] = True  # dense in `uniform`
    allocation = Allocation(distribution, least)
    counts, masks = allocation.least(SHAPES, total), allocation.masks(weights, living, total)
    kept = [np.count_nonzero(mask) for mask in masks]
    assert sum(kept) == total
    if distribution == "global":
        assert counts == layer_floors(sizes(SHAPES), least, total)
        assert kept[0] == counts[0]
        assert all(count <= found for count, found in zip(counts, kept))
    else:
        assert kept == counts == layer_budgets(distribution, SHAPES, total, least)
    for weight, mask, before in zip(weights, masks, living):
        assert not (mask & ~before).any()
        others = np.abs(weight)[before & ~mask]
        assert np.abs(weight)[mask].min(initial=np.inf) >= others.max(initial=0)
