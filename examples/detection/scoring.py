"""What a network finds on pictures, and its mean average precision as COCO counts it."""

import contextlib
import io

import cv2
import numpy as np
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from .geometry import clip
from .networks import inputs, non_max_suppression
from .samples import MASK_STRIDE, whole_picture

LEAST_SCORE = 0.001  # of what counts at all, as is usual for COCO
MOST_OVERLAP = 0.7  # of two boxes of one class, above which the lower score goes
MOST_DETECTIONS = 100  # of a picture, as COCO counts
BATCH = 16


def detect(network, pictures, settings, least=LEAST_SCORE):
    """For each Picture its detections, best first: (boxes (n, 4) in its pixels, scores (n,), labels (n,), masks).

    masks: uint8 (n, height, width) for segmentation, else None. network: in evaluation mode.
    """
    for begin in range(0, len(pictures), BATCH):
        group = pictures[begin : begin + BATCH]
        images, placements = zip(*(whole_picture(picture, settings.image_size) for picture in group))
        predictions, rest = network(inputs(images))
        predictions = predictions.asnumpy()
        prototypes = rest[2].asnumpy() if settings.task == "segment" else [None] * len(group)
        count = predictions.shape[2] - (prototypes[0].shape[0] if settings.task == "segment" else 0)
        found = non_max_suppression(
            predictions[..., :count],
            predictions[..., count:] if settings.task == "segment" else None,
            conf_thres=least,
            iou_thres=MOST_OVERLAP,
            conf_free=True,
            multi_label=True,
            time_limit=0,  # none: what is found must not depend on how busy the machine is
        )
        for picture, placement, rows, prototype in zip(group, placements, found, prototypes):
            yield _in_picture(picture, placement, rows[:MOST_DETECTIONS], prototype)


def _in_picture(picture, placement, rows, prototype):
    boxes = clip(placement.back(rows[:, :4]), picture.width, picture.height)
    masks = None
    if prototype is not None:
        logits = np.tensordot(rows[:, 6:].astype(np.float32), prototype, 1)
        masks = np.stack([_mask(*row, picture, placement) for row in zip(logits, boxes)]) if len(rows) else []
    return boxes, rows[:, 4], rows[:, 5].astype(int), masks


def _mask(logits, box, picture, placement):
    """uint8 (height, width): where an object's logits, on the grid of the prototypes, are positive inside its box."""
    matrix = placement.matrix(MASK_STRIDE)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    whole = cv2.warpAffine(
        logits, matrix, (picture.width, picture.height), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    inside = np.zeros_like(whole, bool)
    left, top, right, bottom = np.round(box).astype(int)
    inside[top:bottom, left:right] = True
    return ((whole > 0) & inside).astype(np.uint8)


def score(network, coco, annotations, settings):
    """Mean average precision, in per cent: {"box": {"mAP", "mAP50"}}, and the same for "mask" in segmentation.

    network: in evaluation mode; coco: Coco of the file `annotations`.
    """
    results = []
    for picture, (boxes, scores, labels, masks) in zip(coco.pictures, detect(network, coco.pictures, settings)):
        for index, (box, value, label) in enumerate(zip(boxes.tolist(), scores.tolist(), labels)):
            corner, sides = box[:2], [box[2] - box[0], box[3] - box[1]]
            result = {
                "image_id": picture.id,
                "category_id": coco.categories[label],
                "bbox": corner + sides,
                "score": value,
            }
            if masks is not None:
                result["segmentation"] = run_lengths.encode(np.asfortranarray(masks[index]))
            results.append(result)
    kinds = {"box": "bbox", "mask": "segm"} if settings.task == "segment" else {"box": "bbox"}
    return {name: _average_precision(annotations, results, kind) for name, kind in kinds.items()}


def _average_precision(annotations, results, kind):
    if not results:
        return {"mAP": 0.0, "mAP50": 0.0}
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells what it does
        truth = COCO(str(annotations))
        if kind == "bbox":  # with masks, it would take boxes and areas from them
            results = [{key: result[key] for key in result if key != "segmentation"} for result in results]
        counted = COCOeval(truth, truth.loadRes(results), kind)
        counted.evaluate()
        counted.accumulate()
        counted.summarize()
    return {"mAP": 100 * float(counted.stats[0]), "mAP50": 100 * float(counted.stats[1])}


def format_score(found):
    """The scores as one line."""
    return ", ".join(f"{kind} mAP {value['mAP']:.2f} %, mAP50 {value['mAP50']:.2f} %" for kind, value in found.items())
