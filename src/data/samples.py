"""The images of a split and their labels, and which of them are held out of training."""

import hashlib
import os
from typing import NamedTuple

import numpy as np

from ..platform.errors import InputError


class Samples(NamedTuple):
    """images: array (n, height, width, channels) of uint8, or (n,) of file names; labels: (n,) int32."""

    images: np.ndarray
    labels: np.ndarray

    def select(self, chosen):
        """Those that a mask (n,) chooses, in their order."""
        return Samples(self.images[chosen], self.labels[chosen])

    def digest(self):
        """Twelve digits that two sets share if they are the same: labels, and pixels or names and sizes of files.

        A file's name is that in its class folder: where the folders lie does not matter. Raises InputError.
        """
        digest = hashlib.sha256(np.ascontiguousarray(self.labels))
        if self.images.ndim > 1:
            digest.update(np.ascontiguousarray(self.images))
        else:
            for path in map(bytes, self.images):
                digest.update(b"%s/%d\0" % (b"/".join(path.split(b"/")[-2:]), _size(path)))
        return digest.hexdigest()[:12]


def _size(path):
    try:
        return os.stat(path).st_size
    except OSError as error:
        raise InputError(f"data_path: cannot read {os.fsdecode(path)}: {error.strerror}") from None


def held_out(labels, fraction, seed):
    """Which training images are held out to choose the best network by: a mask (n,), the same for all workers.

    Of every class that has images, the rounded `fraction` is drawn by `seed`. Raises InputError if that takes none or
    all images of a class.
    """
    random = np.random.RandomState(seed)  # its stream never changes, so a resumed run has the same split
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = round(fraction * len(members))
        if not 0 < count < len(members):
            raise InputError(
                f"val_fraction: {fraction:g} of the {len(members)} training images of class {label} is {count}, which "
                f"leaves none to {'train on' if count else 'choose by'}; give a {'smaller' if count else 'larger'} "
                "share, or more images"
            )
        chosen[random.permutation(members)[:count]] = True
    return chosen
