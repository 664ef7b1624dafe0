"""The training samples of a whole run as one sequence, each a pure function of seed and position.

So the samples do not depend on how many threads or workers prepare them, and a run that goes on at step t needs to know
nothing but t.
"""

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import cv2
import numpy as np

from src.platform.errors import InputError
from src.platform.parallel import SINGLE, local_batch_size

from .geometry import GREY, clip, flip, letterbox, mosaic, seen, single, targets

AHEAD = 4  # batches
MASK_STRIDE = 4  # pixels of the input to one of a mask
cv2.setNumThreads(0)  # the threads are those of the pipeline


class Samples:
    """One worker's samples from step `start` on: (image, targets), for segmentation (image, targets, masks).

    image: float32 (3, size, size), red, green, blue from 0 to 1; targets: see `geometry.targets`; masks: float32
    (size / 4, size / 4), at each point the row of its object in targets, from 1, or 0. Raises InputError if the
    pictures do not make a batch.
    """

    def __init__(self, pictures, settings, start=0, workers=SINGLE):
        self.pictures, self.settings, self.start, self.workers = pictures, settings, start, workers
        self.local = local_batch_size(settings.batch_size, workers.size)
        self.steps_per_epoch = len(pictures) // settings.batch_size
        if not self.steps_per_epoch:
            raise InputError(f"batch_size: {settings.batch_size}, but there are {len(pictures)} training pictures")
        self.total_steps = settings.epochs * self.steps_per_epoch
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def batches(self):
        """From step `start` to the end, each step's batch as a list of arrays; threads prepare some ahead."""
        slots = range(self.workers.rank * self.local, (self.workers.rank + 1) * self.local)
        with ThreadPoolExecutor(self.settings.loaders) as pool:
            coming = deque()
            for step in range(self.start, self.total_steps + AHEAD):
                if step < self.total_steps:
                    coming.append([pool.submit(self.sample, step, place) for place in slots])
                if step >= self.start + AHEAD or step >= self.total_steps:
                    if not coming:
                        return
                    samples = [future.result() for future in coming.popleft()]
                    yield [np.stack(parts) for parts in zip(*samples)]

    def sample(self, step, place):
        """The sample in a `place` of the whole batch of a step, both counted from 0."""
        settings = self.settings
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        random = np.random.default_rng([settings.seed, 1, step, place])
        first = self.pictures[self._order(epoch)[step_in_epoch * settings.batch_size + place]]
        mixed = epoch < settings.epochs - settings.close_mosaic and random.random() < settings.mosaic
        others = random.integers(len(self.pictures), size=3) if mixed else ()
        return make_sample([first, *(self.pictures[index] for index in others)], settings, random)

    def _shuffled(self, epoch):
        return np.random.default_rng([self.settings.seed, 0, epoch]).permutation(len(self.pictures))


def make_sample(pictures, settings, random):
    """One sample of one picture, or of the mosaic of four, changed at random as the Settings say."""
    size = settings.image_size
    zoom = random.uniform(1 - settings.zoom, 1 + settings.zoom)
    centre = size * random.uniform(0.5 - settings.shift, 0.5 + settings.shift, 2)
    if len(pictures) == 1:
        placements = [single(pictures[0].width, pictures[0].height, size, zoom, centre)]
    else:
        shapes = [(picture.width, picture.height) for picture in pictures]
        placements = mosaic(shapes, size, zoom, random.uniform(0.5 * size, 1.5 * size, 2), centre)
    image = np.full((size, size, 3), GREY, np.uint8)
    for picture, placement in zip(pictures, placements):
        paint(image, read_picture(picture), placement)
    image = change_colours(image, random.uniform(-1, 1, 3), settings)
    labels, boxes, polygons = objects(pictures, placements, size, settings.max_objects)
    flipped = random.random() < settings.flip
    if flipped:
        image, boxes = image[:, ::-1], flip(boxes, size)
    sample = (to_input(image), targets(boxes, labels, size, settings.max_objects))
    if settings.task != "segment":
        return sample
    masks = draw_masks(polygons, size)
    return *sample, np.ascontiguousarray(masks[:, ::-1] if flipped else masks)


def objects(pictures, placements, size, most):
    """Labels, boxes and polygons of what is to be seen of the objects of placed pictures, the largest first."""
    labels = np.concatenate([picture.labels for picture in pictures])
    placed = np.concatenate([placement.boxes(picture.boxes) for picture, placement in zip(pictures, placements)])
    polygons = [
        [placement.points(outline) for outline in outlines]
        for picture, placement in zip(pictures, placements)
        for outlines in picture.polygons
    ]
    boxes = clip(placed, size, size)
    kept = np.flatnonzero(seen(placed, boxes))
    areas = (boxes[kept, 2:] - boxes[kept, :2]).prod(1)
    kept = kept[np.argsort(-areas, kind="stable")][:most]
    return labels[kept], boxes[kept], [polygons[index] for index in kept]


def draw_masks(polygons, size):
    """float32 (size / 4, size / 4): at each point the number of the object there, from 1, the last of several."""
    masks = np.zeros((size // MASK_STRIDE, size // MASK_STRIDE), np.uint16)
    for number, outlines in enumerate(polygons, start=1):
        # OpenCV takes corners from pixels' middles, in sixteenths.
        corners = [np.round((outline / MASK_STRIDE - 0.5) * 16).astype(np.int32) for outline in outlines]
        cv2.fillPoly(masks, corners, number, shift=4)
    return masks.astype(np.float32)


def read_picture(picture):
    """Pixels of a Picture, uint8 (height, width, 3), blue first. Raises InputError."""
    pixels = cv2.imread(str(picture.path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise InputError(f"data_path: cannot read the picture {picture.path}")
    if pixels.shape[:2] != (picture.height, picture.width):
        raise InputError(
            f"data_path: {picture.path} is {pixels.shape[1]} x {pixels.shape[0]} pixels, "
            f"not {picture.width} x {picture.height} as its annotations say"
        )
    return pixels


def paint(image, pixels, placement):
    """Put a picture where its Placement says, into the image itself."""
    size = image.shape[1], image.shape[0]
    cv2.warpAffine(pixels, placement.matrix(), size, dst=image, borderMode=cv2.BORDER_TRANSPARENT)


def change_colours(image, amounts, settings):
    """The image with hue, saturation and brightness times 1 + amount * setting; amounts: three from -1 to 1."""
    factors = 1 + amounts * np.array([settings.hue, settings.saturation, settings.brightness])
    levels = np.arange(256)
    tables = np.stack([levels * factors[0] % 180, *(np.clip(levels * factor, 0, 255) for factor in factors[1:])], 1)
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    return cv2.cvtColor(cv2.LUT(hsv, tables.astype(np.uint8)[:, None]), cv2.COLOR_HSV2BGR)


def to_input(image):
    """float32 (3, height, width), red first, 0 to 1, of uint8 (height, width, 3), blue first."""
    return np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1), np.float32) / 255


def whole_picture(picture, size):
    """The input to score a Picture by, and the Placement of the picture in it."""
    image = np.full((size, size, 3), GREY, np.uint8)
    placement = letterbox(picture.width, picture.height, size)
    paint(image, read_picture(picture), placement)
    return to_input(image), placement
