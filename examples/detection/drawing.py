"""Pictures with detections on them."""

import numpy as np
from PIL import Image, ImageDraw

from .samples import read_picture
from .scoring import detect

COLOURS = ("#ffffff", "#ffe119", "#42d4f4", "#f032e6", "#3cb44b", "#f58231", "#bfef45", "#fabed4")
LEAST_SCORE = 0.25  # of what is drawn
ROWS, COLUMNS = 3, 6
TILE = 160  # pixels


def draw_detections(path, network, coco, settings):
    """Write the first pictures side by side, with boxes, classes, scores, and masks if there are any.

    network: in evaluation mode. Raises OSError.
    """
    pictures = coco.pictures[: ROWS * COLUMNS]
    sheet = Image.new("RGB", (COLUMNS * TILE, -(-len(pictures) // COLUMNS) * TILE))
    for index, found in enumerate(detect(network, pictures, settings, LEAST_SCORE)):
        tile = draw_picture(read_picture(pictures[index])[..., ::-1], found, coco.classes)
        sheet.paste(tile, (index % COLUMNS * TILE, index // COLUMNS * TILE))
    sheet.save(path, format="PNG")


def draw_picture(pixels, found, classes):
    """A picture, uint8 (height, width, 3), with detections as `scoring.detect` has them, scaled to TILE pixels."""
    boxes, scores, labels, masks = found
    pixels = pixels.astype(np.float32)
    for label, mask in zip(labels, () if masks is None else masks):
        colour = np.array(Image.new("RGB", (1, 1), COLOURS[label % len(COLOURS)]))[0, 0]
        pixels = np.where(mask[..., None], 0.5 * pixels + 0.5 * colour, pixels)
    image = Image.fromarray(pixels.astype(np.uint8))
    scale = TILE / max(image.size)
    image = image.resize([round(side * scale) for side in image.size])
    draw = ImageDraw.Draw(image)
    for box, value, label in zip(boxes * scale, scores, labels):
        colour = COLOURS[label % len(COLOURS)]
        draw.rectangle(box.tolist(), outline=colour)
        draw.text((box[0] + 2, max(0, box[1] - 11)), f"{classes[label]} {value:.2f}", fill=colour)
    return image
