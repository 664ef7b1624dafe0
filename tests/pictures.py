"""Folders of small pictures, of mixed sizes and formats, whose classes can be told by colour."""

import numpy as np
from PIL import Image

COLOURS = {
    "cat": (200, 60, 60),
    "dog": (60, 200, 60),
    "owl": (60, 60, 200),
    "ant": (190, 190, 60),
    "bee": (60, 190, 190),
}
FORMATS = ("png", "jpg", "bmp", "gif", "webp", "tiff", "PNG")


def write_pictures(folder, count, classes=tuple(COLOURS), seed=0, colours=COLOURS):
    """`count` noisy pictures of each class in folders of their names; returns `folder`."""
    random = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for index in range(count):
            size = random.integers(24, 80, 2)
            pixels = np.clip(random.normal(colours[name], 25, (*size, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.{FORMATS[index % len(FORMATS)]}")
    return folder


def spoil(path):
    """Cut a picture off in its middle; its head stays good."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
