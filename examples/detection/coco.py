"""Pictures with boxes and masks as COCO's json lists them."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from src.platform.errors import InputError
from src.platform.files import GIB, read_regular


class Picture(NamedTuple):
    """A picture and its n objects.

    id: COCO's number; labels: int (n,), classes from 0; boxes: float (n, 4), left, top, right, bottom; polygons: for
    each object a list of arrays (corners, 2).
    """

    id: int
    path: Path
    width: int
    height: int
    labels: np.ndarray
    boxes: np.ndarray
    polygons: list


class Coco(NamedTuple):
    """pictures: list of Picture; classes: names in the order of their labels; categories: COCO's numbers of them."""

    pictures: list
    classes: tuple
    categories: tuple


def read_coco(annotations, images, masks=False):
    """The Coco of a file of annotations and a folder of pictures.

    Crowds, and boxes without an area, are left out: the first are no single objects. masks: read polygons, and leave
    out an object that has none; otherwise no polygons are kept, which saves most of the memory.

    Raises InputError, naming file and entry, if they are not as in COCO.
    """
    document = _parse(annotations)
    try:
        numbers = tuple(sorted(entry["id"] for entry in document["categories"]))
        names = {entry["id"]: str(entry["name"]) for entry in document["categories"]}
        objects = {entry["id"]: [] for entry in document["images"]}
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{annotations}: not as in COCO: {type(error).__name__} {error} in images or categories"
        ) from None
    if not objects or not names:
        raise InputError(f"{annotations}: lists no picture, or no category")
    labels = {number: label for label, number in enumerate(numbers)}
    for position, entry in enumerate(document.get("annotations", [])):
        try:
            if not entry.get("iscrowd") and min(entry["bbox"][2:]) > 0:
                found = _object(entry, labels, masks)
                if found[2] or not masks:
                    objects[entry["image_id"]].append(found)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{annotations}: annotations[{position}]: {type(error).__name__}: {error}") from None
    try:
        pictures = [_picture(entry, Path(images), objects[entry["id"]]) for entry in document["images"]]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{annotations}: not as in COCO: {type(error).__name__} {error} in images") from None
    if not pictures[0].path.is_file():
        raise InputError(
            f"{annotations}: its first picture, {pictures[0].path}, is not there; name the folder of its pictures"
        )
    return Coco(pictures, tuple(names[number] for number in numbers), numbers)


def _parse(path):
    content = read_regular(path, f"data_path: cannot read {path}", 4 * GIB)
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a JSON file: {error}") from None
    if not isinstance(document, dict):
        raise InputError(f"{path}: not as in COCO: no object of images, annotations and categories")
    return document


def _object(entry, labels, masks):
    """Label, box and polygons of an annotation."""
    left, top, width, height = map(float, entry["bbox"])
    outlines = entry.get("segmentation")
    outlines = outlines if masks and isinstance(outlines, list) else []  # crowds have run lengths
    polygons = [np.asarray(outline, np.float64).reshape(-1, 2) for outline in outlines]
    return labels[entry["category_id"]], (left, top, left + width, top + height), polygons


def _picture(entry, folder, objects):
    labels = np.array([label for label, _, _ in objects], np.int64)
    boxes = np.array([box for _, box, _ in objects], np.float64).reshape(-1, 4)
    width, height = int(entry["width"]), int(entry["height"])
    polygons = [outlines for _, _, outlines in objects]
    return Picture(entry["id"], folder / entry["file_name"], width, height, labels, boxes, polygons)
