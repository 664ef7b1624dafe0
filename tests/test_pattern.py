"""N:M patterns: pure functions from tables and against a slow oracle, whole updates, runs, and the files they leave."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.pruning.pattern import Pattern, Patterned


def floats(*values):
    return np.array(values, np.float32)


def groups_of(shape, of, axis):
    """The groups of a layer as lists of positions, one weight at a time: M neighbours along the input channels."""
    channels = shape[axis]
    elsewhere = [range(size) for number, size in enumerate(shape) if number != axis]
    found = []
    for place in np.ndindex(*map(len, elsewhere)):
        for start in range(0, channels, of):
            found.append([(*place[:axis], start + offset, *place[axis:]) for offset in range(of)])
    return found


class Oracle:
    """The masks of layers that take a pattern, and how an update changes them; positions are (layer, index...)."""

    def __init__(self, shapes, axes, kept, of):
        self.shapes, self.kept = shapes, kept
        self.groups = {layer: groups_of(shapes[layer], of, axis) for layer, axis in axes.items()}
        self.size = sum(math.prod(shapes[layer]) for layer in axes)
        self.alive = [set(np.ndindex(*shape)) for shape in shapes]

    def update(self, weights, scores, total, fraction):
        """`alive` within `total` weights, then a `fraction` of each layer dropped and regrown in its groups."""
        self.cut(weights, total)
        for layer, groups in self.groups.items():
            alive = self.alive[layer]
            dropped = self.dropped(alive, weights[layer], math.floor(fraction * len(alive)))
            stay = alive - dropped
            for group in groups:
                lost = sum(place in dropped for place in group)
                free = [place for place in group if place not in stay]
                stay = stay | set(sorted(free, key=lambda place: -scores[layer][place])[:lost])
            self.alive[layer] = stay

    def dropped(self, alive, weight, count):
        """The smallest; of equal ones the later in memory, since the earlier is kept."""
        ranked = sorted(alive, key=lambda place: (-abs(weight[place]), place))
        return set(ranked[len(ranked) - count :])

    def cut(self, weights, total):
        """The N largest of every group, then the largest of all others, until there are `total`."""
        kept, others = {layer: set() for layer in self.groups}, []
        for layer, groups in self.groups.items():
            for group in groups:
                living = [place for place in group if place in self.alive[layer]]
                ranked = sorted(living, key=lambda place: -abs(weights[layer][place]))
                kept[layer] |= set(ranked[: self.kept])
                others += [(-abs(weights[layer][place]), layer, place) for place in ranked[self.kept :]]
        left = total - sum(map(len, kept.values()))
        for _, layer, place in sorted(others)[:left]:
            kept[layer].add(place)
        for layer, living in kept.items():
            self.alive[layer] = living


@st.composite
def layers(draw):
    """A pattern and one layer that takes it: shape, axis, and a source of numbers, ties among them."""
    of = draw(st.integers(2, 5))
    kept = draw(st.integers(1, of - 1))
    axis = draw(st.integers(0, 1))
    shape = [draw(st.integers(1, 3)), draw(st.integers(1, 3)), *draw(st.sampled_from([(), (3,), (2, 2)]))]
    shape[axis] *= of
    return Pattern(kept, of), tuple(shape), axis, np.random.default_rng(draw(st.integers(0, 999)))


def places(mask):
    return set(zip(*(indices.tolist() for indices in np.nonzero(mask))))


@pytest.mark.parametrize(
    ("scores", "pattern", "expected"),
    [
        ((1, 3, 2, 4), Pattern(2, 4), (0, 1, 0, 1)),
        ((5, 5, 5, 5), Pattern(2, 4), (1, 1, 0, 0)),  # ties go to the earlier one
        ((0, 9, 8, 7, 1, 0, 0, 0), Pattern(1, 4), (0, 1, 0, 0, 1, 0, 0, 0)),
        ((3, 1, 2, 2, 1, 3), Pattern(2, 3), (1, 0, 1, 1, 0, 1)),
    ],
)
def test_the_largest_of_every_group(scores, pattern, expected):
    assert pattern.largest(floats([*scores]), 1).astype(int).tolist() == [[*expected]]


def test_groups_run_along_the_input_channels_at_one_kernel_position():
    weight = np.zeros((1, 4, 1, 2), np.float32)
    weight[0, :, 0, 0], weight[0, :, 0, 1] = [4, 3, 2, 1], [1, 2, 3, 4]
    mask = Pattern(2, 4).largest(weight, 1)
    assert mask[0, :, 0, 0].tolist() == [True, True, False, False]
    assert mask[0, :, 0, 1].tolist() == [False, False, True, True]


@given(layers())
def test_selections_are_the_oracles(layer):
    pattern, shape, axis, random = layer
    scores = random.integers(0, 4, shape).astype(np.float32)
    expected = set()
    for group in groups_of(shape, pattern.of, axis):
        expected |= set(sorted(group, key=lambda place: -scores[place])[: pattern.kept])
    assert places(pattern.largest(scores, axis)) == expected
    mask = random.random(shape) < 0.5
    counts = pattern.counts(mask, axis)
    found = {}
    for group in groups_of(shape, pattern.of, axis):
        number = sum(bool(mask[place]) for place in group)
        found[number] = found.get(number, 0) + 1
    assert {int(number): int((counts == number).sum()) for number in np.unique(counts)} == found
    wrong = sum(count for number, count in found.items() if number > pattern.kept)
    assert Patterned(pattern, {0: axis}).broken([mask]) == ({0: wrong} if wrong else {})
    inexact = sum(count for number, count in found.items() if number != pattern.kept)
    assert Patterned(pattern, {0: axis}).broken([mask], exact=True) == ({0: inexact} if inexact else {})


@given(layers(), st.floats(0, 1), st.floats(0, 1))
def test_an_update_is_the_oracles(layer, share, fraction):
    """From any masks whose groups have at least N living weights, with ties and living zeros."""
    pattern, shape, axis, random = layer
    shapes, axes = [shape, (2, 3), shape], {0: axis, 2: axis}
    patterned, oracle = Patterned(pattern, axes), Oracle([shape, (2, 3), shape], axes, *pattern)
    masks = [random.random(s) < 0.5 for s in shapes]
    for index in axes:
        masks[index] |= pattern.largest(random.random(shape), axis)
        oracle.alive[index] = places(masks[index])
    weights = [random.integers(-4, 4, s).astype(np.float32) * mask for s, mask in zip(shapes, masks)]
    gradients = [random.integers(0, 4, s).astype(np.float32) for s in shapes]
    least, living = sum(patterned.least(math.prod(shape)) for _ in axes), sum(len(oracle.alive[i]) for i in axes)
    total = least + round(share * (living - least))
    kept = patterned.masks([weights[0], weights[2]], [masks[0], masks[2]], [0, 2], total)
    oracle.update(weights, gradients, total, fraction)
    alive = []
    for index, mask in zip(axes, kept):
        count = math.floor(fraction * np.count_nonzero(mask))
        new = pattern.drop_and_grow(weights[index], mask, gradients[index], axis, count)
        alive.append(places(new.mask))
        assert np.array_equal(pattern.counts(new.mask, axis), pattern.counts(mask, axis))
        assert np.array_equal(new.weight, np.where(new.mask & mask, weights[index], 0))
        assert not np.signbit(new.weight[new.weight == 0]).any()
    assert alive == [oracle.alive[0], oracle.alive[2]]
    assert sum(map(len, alive)) == total


@pytest.mark.parametrize("text", ["2:2", "0:4", "4", "2:4:8", "2:100", "-1:4", "2 : 4", "٢:٤", "1:4\n"])
def test_what_is_no_pattern(text):
    with pytest.raises(ValueError, match="N:M with N below M"):
        Pattern.parse(text)


def test_parsing_and_printing():
    assert Pattern.parse("4:16") == (4, 16)
    assert str(Pattern(4, 16)) == "4:16"
    assert Pattern(1, 3).density == 1 / 3
