"""Where the pixels of a picture come to lie in the network's square input. Pure functions; boxes are (left, top, right,
bottom) in pixels from the outer edge of the first one.
"""

from typing import NamedTuple

import numpy as np

GREY = 114  # of what no picture covers
LEAST_SIDE = 2  # pixels of a box that still counts
LEAST_SEEN = 0.1  # share of an object that has to be inside the input


class Placement(NamedTuple):
    """A picture's point p comes to lie at scale * p + (x, y)."""

    scale: float
    x: float
    y: float

    def boxes(self, boxes):
        """Boxes (n, 4) of the picture, in the input."""
        return boxes * self.scale + np.array([self.x, self.y] * 2)

    def points(self, points):
        """Points (n, 2) of the picture, in the input."""
        return points * self.scale + np.array([self.x, self.y])

    def back(self, boxes):
        """Boxes (n, 4) of the input, in the picture: the inverse of `boxes`."""
        return (boxes - np.array([self.x, self.y] * 2)) / self.scale

    def matrix(self, stride=1):
        """(2, 3) for `cv2.warpAffine` into an input whose pixels are `stride` wide; both count from pixels' middles."""
        scale = self.scale / stride
        return np.array([[scale, 0, self._middle(self.x, stride)], [0, scale, self._middle(self.y, stride)]])

    def _middle(self, offset, stride):
        return (offset + self.scale / 2) / stride - 0.5


def letterbox(width, height, size):
    """The Placement of a whole picture in the middle of an input of size x size, as large as it can be."""
    scale = size / max(width, height)
    return Placement(scale, (size - scale * width) / 2, (size - scale * height) / 2)


def single(width, height, size, zoom, centre):
    """The Placement of one picture, `zoom` times as large as `letterbox` has it, its middle at `centre` (x, y)."""
    scale = zoom * size / max(width, height)
    return Placement(scale, centre[0] - scale * width / 2, centre[1] - scale * height / 2)


def mosaic(shapes, size, zoom, corner, centre):
    """Placements of four pictures of these (width, height) around one corner: left and right above, then below.

    The square of 2 x size that they make has their common corner at `corner` (x, y); zoomed, its middle comes to lie at
    `centre` (x, y) of the input.
    """
    placements = []
    for index, (width, height) in enumerate(shapes):
        scale = size / max(width, height)
        x = corner[0] - (0 if index % 2 else scale * width)
        y = corner[1] - (0 if index // 2 else scale * height)
        placements.append(Placement(zoom * scale, zoom * (x - size) + centre[0], zoom * (y - size) + centre[1]))
    return placements


def clip(boxes, width, height):
    """The parts of boxes (n, 4) inside a rectangle."""
    return np.clip(boxes, 0, [width, height, width, height])


def seen(placed, clipped):
    """Which boxes (n, 4), clipped to the input, are still worth training on: not too small, nor too much cut off."""
    sides = clipped[:, 2:] - clipped[:, :2]
    whole = (placed[:, 2:] - placed[:, :2]).prod(1)
    return (sides >= LEAST_SIDE).all(1) & (sides.prod(1) >= LEAST_SEEN * whole)


def flip(boxes, size):
    """Boxes (n, 4) of an input of that size, flipped left to right."""
    return np.stack([size - boxes[:, 2], boxes[:, 1], size - boxes[:, 0], boxes[:, 3]], 1)


def targets(boxes, labels, size, most):
    """What YOLOv8's loss takes: float32 (most, 6) of (-, class, centre x, centre y, width, height), shares of the size.

    Rows without an object are -1.
    """
    rows = np.full((most, 6), -1, np.float32)
    rows[: len(boxes), 0] = 0
    rows[: len(boxes), 1] = labels
    rows[: len(boxes), 2:4] = (boxes[:, :2] + boxes[:, 2:]) / (2 * size)
    rows[: len(boxes), 4:] = (boxes[:, 2:] - boxes[:, :2]) / size
    return rows
