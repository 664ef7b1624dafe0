"""What a network needs to know of its data, and a checkpoint to be evaluated, exported and asked without them."""

from typing import NamedTuple


class DataInfo(NamedTuple):
    """num_classes; image_shape: (channels, height, width); mean, std: per channel, of values 0..1.

    crop: share of the resized test image's shorter side that is seen; classes: names by label, or () where the data
    have none; skipped: names of files, from the data's folder, that cannot be read and are left out.
    """

    num_classes: int
    image_shape: tuple
    mean: tuple
    std: tuple
    crop: float = 1.0
    classes: tuple = ()
    skipped: tuple = ()

    @property
    def size(self):
        """(height, width)."""
        return tuple(self.image_shape[1:])
