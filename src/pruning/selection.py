"""Exact selection of the largest scores over one or several arrays, in a few passes and without a sort.

A strided sample brackets the threshold; what lies above the bracket is taken, and only the few scores inside it are
partitioned. If the sample misleads, the bracket is widened to everything: the result never depends on it.
"""

import math

import numpy as np

from ..platform.threads import each

SAMPLE = 1 << 16  # scores in the sample; the bracket then holds about one score in sixty
DEVIATIONS = 4  # half-width of the bracket, in standard deviations of the sample's quantile


def largest(scores, count):
    """Mask of the `count` largest scores (0 <= count <= size); on equal scores the earlier position wins."""
    return largest_of([scores], count)[0]


def largest_of(parts, count):
    """Masks of the `count` largest scores over several arrays together, all finite. Ties go to the earlier one."""
    size = sum(part.size for part in parts)
    if count in (0, size):
        return [np.full(part.shape, count == size) for part in parts]
    flat = [part.ravel() for part in parts]
    masks, near = _split(flat, *_bracket(flat, count, size))
    missing = count - sum(map(np.count_nonzero, masks))
    if not 0 <= missing <= sum(map(len, near)):
        masks, near = _split(flat, -np.inf, np.inf)
        missing = count
    candidates = np.concatenate([part[positions] for part, positions in zip(flat, near)])
    chosen = np.split(_by_partition(candidates, missing), np.cumsum([len(positions) for positions in near])[:-1])
    for mask, positions, taken in zip(masks, near, chosen):
        mask[positions[taken]] = True
    return [mask.reshape(part.shape) for mask, part in zip(masks, parts)]


def _bracket(parts, count, size):
    """Two scores between which the count-th largest lies, most likely."""
    stride = max(1, size // SAMPLE)
    sample = np.sort(np.concatenate([part[::stride] for part in parts]))
    share = count / size
    middle = len(sample) * (1 - share)
    width = DEVIATIONS * math.sqrt(len(sample) * share * (1 - share)) + 1
    low, high = math.floor(middle - width), math.ceil(middle + width)
    return sample[low] if low >= 0 else -np.inf, sample[high] if high < len(sample) else np.inf


def _split(parts, low, high):
    """Masks of the scores above `high`, and positions (in memory order) of the others above `low`.

    Strictly above: masked-out weights share one lowest score, and none of them need be looked at.
    """

    def split(part):
        mask = part > high
        return mask, np.flatnonzero((part > low) != mask)

    return zip(*each(split, parts))


def _by_partition(scores, count):
    """Mask of the `count` largest of a flat array, by one partition."""
    if count in (0, scores.size):
        return np.full(scores.shape, count == scores.size)
    threshold = np.partition(scores, scores.size - count)[scores.size - count]
    mask = scores > threshold
    ties = np.flatnonzero(scores == threshold)
    mask[ties[: count - np.count_nonzero(mask)]] = True
    return mask
