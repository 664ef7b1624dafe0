"""Make the data set of rendered characters: harder than the digits, small enough for many training runs.

usage: python benchmark/make_characters.py DIR

Each image shows one of 36 characters in Pillow's own font, at random place, size, angle, shear and colours, over
fragments of other characters and lines, with noise; bright on dark, as both ways round take a network long to learn.
Everything follows one seed, so two machines with the same Pillow make the same files.
"""

import argparse
import math
from pathlib import Path

import common  # noqa: F401  finds the project
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from src.data.characters import CLASSES, FOLDER, IMAGE_SHAPE, NUM_SAMPLES

SIZE = IMAGE_SHAPE[1]
FINE = 4  # drawn that many times larger, then reduced
SEEDS = {"train": 1, "test": 2}


def glyph(character, random):
    """A character as a mask (fine pixels, 0..1), turned, sheared and moved at random."""
    side = SIZE * FINE
    image = Image.new("L", (side, side))
    font = ImageFont.load_default(size=random.uniform(0.65, 0.95) * side)
    ImageDraw.Draw(image).text((side / 2, side / 2), character, fill=255, font=font, anchor="mm")
    angle, shear = math.radians(random.uniform(-15, 15)), random.uniform(-0.2, 0.2)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    matrix = turn @ np.array([[1, shear], [0, 1]])
    centre = np.array([side / 2, side / 2])
    shift = centre - matrix @ (centre + random.uniform(-0.1, 0.1, 2) * side)
    coefficients = (*matrix[0], shift[0], *matrix[1], shift[1])
    turned = image.transform((side, side), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    return np.asarray(turned, np.float32) / 255


def clutter(random):
    """A mask of two fragments of other characters at the border, and of two thin lines."""
    side = SIZE * FINE
    mask = np.zeros((side, side), np.float32)
    for _ in range(2):
        other = glyph(CLASSES[random.integers(len(CLASSES))], random)
        axis, distance = random.integers(2), round(side * random.uniform(0.55, 0.8)) * random.choice([-1, 1])
        mask = np.maximum(mask, np.roll(other, distance, axis) * _beyond(side, axis, distance))
    image = Image.fromarray((mask * 255).astype(np.uint8))
    for _ in range(2):
        ImageDraw.Draw(image).line(
            [tuple(point) for point in random.uniform(0, side, (2, 2))], fill=255, width=FINE // 2
        )
    return np.asarray(image, np.float32) / 255


def _beyond(side, axis, distance):
    """1 where rolling by `distance` along `axis` brought in what was moved, 0 where it wrapped around."""
    along = np.arange(side)
    seen = (along >= distance) if distance > 0 else (along < side + distance)
    return seen[:, None] if axis == 0 else seen[None, :]


def render(character, random):
    """One image (3, 16, 16) uint8."""
    ground, ink, other = random.uniform(0, 0.45, 3), random.uniform(0.55, 1, 3), random.uniform(0, 1, 3)
    other = ground + 0.7 * (other - ground)
    mask, behind = glyph(character, random), clutter(random)
    image = ground[:, None, None] + behind * (other - ground)[:, None, None]
    image = image + mask * (ink[:, None, None] - image)
    image = image.reshape(3, SIZE, FINE, SIZE, FINE).mean((2, 4))
    image = image + random.normal(0, 0.1, image.shape)
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8)


def make(split):
    """All records of a split, (n, 1 + 3 * 16 * 16) uint8: as many images of each class, in random order."""
    random = np.random.default_rng(SEEDS[split])
    labels = random.permutation(np.arange(NUM_SAMPLES[split]) % len(CLASSES)).astype(np.uint8)
    images = np.stack([render(CLASSES[label], random).ravel() for label in labels])
    return np.concatenate([labels[:, None], images], 1)


def write(folder):
    """Write both splits below `folder`, unless they are there."""
    folder = Path(folder) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for split in NUM_SAMPLES:
        if not (folder / f"{split}.bin").exists():
            make(split).tofile(folder / f"{split}.bin")


def main():
    """Make the data set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="where to put the folder characters/")
    write(parser.parse_args().folder)


if __name__ == "__main__":
    main()
