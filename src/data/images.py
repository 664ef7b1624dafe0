"""Image files as pixels: the part of a picture that a network sees, resized.

There is one way, for training, evaluation and inference. Pillow's bilinear filter weighs all pixels that a smaller
picture merges into one (antialiasing), as it did for the published weights of torchvision's networks;
`mindspore.dataset.vision.Resize` looks at two by two of them.
"""

import math
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..platform.errors import InputError
from ..platform.files import MIB, reading

_LARGEST_FILE = 256 * MIB
_LONGEST_SIDE = 100  # times the other
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # what it warns of is refused here

MODES = {1: "L", 3: "RGB"}  # Pillow's name by number of channels


def read_part(path, channels, size, part, key, mirror=False):
    """A part of an image file, resized: uint8 (height, width, channels).

    size: (height, width); part: function of the picture's width and height -> its part, (left, top, right, bottom) in
    pixels, not necessarily whole ones; key: the setting that named the file, for the message; mirror: left for right.
    Most of its time it spends in Pillow's decoder and filters, which let other threads run.

    Raises InputError if the file cannot be read or is no image.
    """
    height, width = size
    with reading(path, f"{key}: cannot read {path}", _LARGEST_FILE) as (opened, _):
        try:
            with Image.open(opened) as file:
                _check_size(file.width, file.height)
                box = part(file.width, file.height)
                image = file if file.mode == MODES[channels] else file.convert(MODES[channels])
                image = image.resize((width, height), Image.Resampling.BILINEAR, box)
        except UnidentifiedImageError:
            raise InputError(f"{key}: cannot read {path}: not an image") from None
        except Exception as error:  # Pillow's decoders raise almost anything on damaged files
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{key}: cannot read {path}: {reason}") from None
    if mirror:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(image).reshape(height, width, channels)


def _check_size(width, height):
    """Raise ValueError for a picture that would take too much memory, before it is decoded."""
    if width * height > Image.MAX_IMAGE_PIXELS:
        raise ValueError(f"{width} x {height} pixels, more than the {Image.MAX_IMAGE_PIXELS:,} of Pillow's limit")
    if max(width, height) > _LONGEST_SIDE * min(width, height):
        raise ValueError(f"{width} x {height} pixels, of which no network sees more than a sliver")


def central_part(size, crop):
    """The part that evaluation and inference see, as a function of a picture's width and height.

    That is the centre crop of `size` (height, width) of the picture scaled until its shorter side is 1 / `crop` times
    as long. Rounding is torchvision's: the longer side downwards, the offset to the nearest, from halves to even.
    """

    def part(width, height):
        least = round(size[0] / crop), round(size[1] / crop)
        if width * least[0] <= height * least[1]:
            scaled = least[1] * height // width, least[1]
        else:
            scaled = least[0], least[0] * width // height
        top, left = (round((whole - seen) / 2) for whole, seen in zip(scaled, size))
        return (
            left * width / scaled[1],
            top * height / scaled[0],
            (left + size[1]) * width / scaled[1],
            (top + size[0]) * height / scaled[0],
        )

    return part


def random_part(random):
    """A random part for training, as a function of a picture's width and height (Szegedy et al., 2015).

    8 to 100 % of the area, 3:4 to 4:3 in shape, anywhere; the largest central part of a fitting shape if ten draws do
    not fit. random: random.Random.
    """

    def part(width, height):
        for _ in range(10):
            area = random.uniform(0.08, 1) * width * height
            shape = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
            across, down = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
            if 0 < across <= width and 0 < down <= height:
                left, top = random.randint(0, width - across), random.randint(0, height - down)
                return left, top, left + across, top + down
        across, down = min(width, height * 4 / 3), min(height, width * 4 / 3)
        left, top = (width - across) / 2, (height - down) / 2
        return left, top, left + across, top + down

    return part
