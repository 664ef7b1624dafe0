"""Pictures of coloured shapes, with boxes and masks in COCO's json: what the example trains on without a download.

usage: python examples/detection/make_shapes.py [--output_path DIR] [--train N] [--val N] [--image_size N] [--seed N]

What a shape is, is in its outline alone: size, angle and colour are random, and so is the background. Shapes do not
cover each other, so that a polygon is all of an object.
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.platform.command_line import Parser, positive
from src.platform.errors import InputError, run_program
from src.platform.files import replace_file, writing

CORNERS = 24  # of the polygon that stands for a circle
SCALE = 4  # pictures are drawn this much larger, for smooth edges
MOST_SHAPES = 5
RADIUS = (0.07, 0.2)  # of a shape, as a share of the picture's side
CONTRAST = 120  # least difference between the colours of a shape and its background, summed over red, green and blue
ATTEMPTS = 50


def _regular(corners):
    """Corners on the unit circle, (n, 2)."""
    angles = 2 * np.pi * np.arange(corners) / corners
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def _star():
    return _regular(10) * np.where(np.arange(10) % 2, 0.45, 1.0)[:, None]


OUTLINES = {"circle": _regular(CORNERS), "triangle": _regular(3), "square": _regular(4), "star": _star()}


def main():
    """Make the data set."""
    arguments = _parse()
    folder = Path(arguments.output_path)
    for part in ("train", "val"):
        if (folder / f"{part}.json").exists() and not arguments.overwrite:
            raise InputError(f"output_path: {folder} holds shapes already; replace them with --overwrite")
    for index, (part, count) in enumerate((("train", arguments.train), ("val", arguments.val))):
        random = np.random.default_rng([arguments.seed, index])
        with writing(folder, "output_path"):
            objects = write_part(folder, part, count, arguments.image_size, random)
        print(f"{folder / part}.json: {count} pictures of {arguments.image_size} pixels, {objects} shapes")


def write_part(folder, part, count, size, random):
    """Write the pictures FOLDER/PART/*.png, then FOLDER/PART.json, which has their boxes and masks.

    Returns the number of shapes. Raises OSError.
    """
    (folder / part).mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number in range(1, count + 1):
        pixels, shapes = picture(size, random)
        name = f"{number:06d}.png"
        Image.fromarray(pixels).save(folder / part / name)
        images.append({"id": number, "file_name": name, "width": size, "height": size})
        annotations += [{"image_id": number, **annotation(*shape)} for shape in shapes]
    for number, entry in enumerate(annotations, start=1):
        entry["id"] = number
    categories = [{"id": number, "name": name} for number, name in enumerate(OUTLINES, start=1)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    replace_file(folder / f"{part}.json", [json.dumps(document).encode()])
    return len(annotations)


def picture(size, random):
    """Pixels, uint8 (size, size, 3), and the shapes on them: pairs of class, from 0, and polygon (n, 2)."""
    ground, mean = background(size, random)
    shapes = place(size, random)
    for _, polygon in shapes:
        ground = paint(ground, polygon, colour_beside(mean, random))
    return ground, shapes


def background(size, random):
    """A gradient between two similar colours with lines and noise on it, uint8 (size, size, 3), and its mean colour."""
    mean = random.uniform(40, 215, 3)
    tilt, angle = random.uniform(-30, 30, 3), random.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    along = (np.cos(angle) * x + np.sin(angle) * y)[..., None]
    image = Image.fromarray(np.clip(mean + tilt * along, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(random.integers(0, 6)):
        ends = [float(value) for value in random.uniform(0, size, 4)]
        draw.line(ends, fill=tuple(map(int, random.integers(0, 256, 3))))
    noisy = np.asarray(image) + random.normal(0, 8, (size, size, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8), mean


def place(size, random):
    """One to MOST_SHAPES shapes inside a picture whose boxes lie at least two pixels apart."""
    placed, boxes = [], []
    for _ in range(random.integers(1, MOST_SHAPES + 1)):
        for _ in range(ATTEMPTS):
            kind, polygon = shape(size, random)
            low, high = polygon.min(0), polygon.max(0)
            apart = all((low > other_high + 2).any() or (high < other_low - 2).any() for other_low, other_high in boxes)
            if apart and low.min() >= 1 and high.max() <= size - 1:
                placed.append((kind, polygon))
                boxes.append((low, high))
                break
    return placed or place(size, random)


def shape(size, random):
    """A random class and its polygon, turned, scaled and put somewhere; hundredths of a pixel."""
    kind = int(random.integers(len(OUTLINES)))
    angle, radius = random.uniform(0, 2 * np.pi), size * random.uniform(*RADIUS)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    points = radius * list(OUTLINES.values())[kind] @ turn + random.uniform(0, size, 2)
    return kind, points.round(2)


def colour_beside(mean, random):
    """A colour that can be told from another one."""
    while True:
        colour = random.integers(0, 256, 3)
        if np.abs(colour - mean).sum() >= CONTRAST:
            return colour


def paint(pixels, polygon, colour):
    """The pixels with a polygon of one colour on them; those on its edge are mixed by the share that it covers."""
    side = SCALE * len(pixels)
    drawn = Image.new("L", (side, side))
    # PIL counts from the middle of a pixel, polygons from its edge.
    ImageDraw.Draw(drawn).polygon([tuple(point) for point in (SCALE * polygon - 0.5).tolist()], fill=255)
    covered = np.asarray(drawn.reduce(SCALE), np.float32)[..., None] / 255
    return (pixels * (1 - covered) + colour * covered).round().astype(np.uint8)


def annotation(kind, polygon):
    """What COCO's json says of an object, but for its number and its picture's."""
    low, high = polygon.min(0), polygon.max(0)
    x, y = polygon.T
    area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    return {
        "category_id": kind + 1,
        "bbox": np.concatenate([low, high - low]).round(2).tolist(),
        "area": round(float(area), 2),
        "segmentation": [polygon.ravel().tolist()],
        "iscrowd": 0,
    }


def _parse():
    parser = Parser(__doc__.partition("\n")[0])
    parser.add_argument("--output_path", default="output/shapes", help="folder to write to (default: output/shapes)")
    parser.add_argument("--train", type=positive, default=1600, metavar="N", help="pictures to train on")
    parser.add_argument("--val", type=positive, default=400, metavar="N", help="pictures to score on")
    parser.add_argument("--image_size", type=_side, default=64, metavar="N", help="height and width (default: 64)")
    parser.add_argument("--seed", type=_seed, default=0, metavar="N", help="other numbers, other pictures (default: 0)")
    parser.add_argument("--overwrite", action="store_true", help="replace the pictures that are there")
    return parser.parse_args()


def _side(text):
    side = positive(text)
    if not 32 <= side <= 2048:
        raise ValueError
    return side


def _seed(text):
    number = int(text)
    if number < 0:
        raise ValueError
    return number


if __name__ == "__main__":
    run_program(main)
