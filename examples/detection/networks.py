"""YOLOv8 of mindyolo in all its sizes, its loss, and its checkpoints."""

import logging
import sys
import types

import numpy as np
from mindspore import Tensor, nn

from src.platform.errors import InputError
from src.weights.checkpoint import load_weights, read_any_checkpoint, read_checkpoint, write_network

# mindyolo 0.5 imports it for a check of versions that nothing here makes; setuptools 82 has dropped it.
sys.modules.setdefault("pkg_resources", types.ModuleType("pkg_resources"))
logging.disable(logging.WARNING)  # what mindyolo says of its own layers while it builds them

from mindyolo.models import create_loss, create_model  # noqa: E402
from mindyolo.utils.config import Config  # noqa: E402
from mindyolo.utils.metrics import non_max_suppression  # noqa: E402, F401  `scoring` takes it from here

logging.disable(logging.NOTSET)

SIZES = {  # shares of the layers and channels of the plan below, and the most channels before that share
    "n": (0.33, 0.25, 1024),
    "s": (0.33, 0.50, 1024),
    "m": (0.67, 0.75, 768),
    "l": (1.00, 1.00, 512),
    "x": (1.00, 1.25, 512),
}
STRIDES = (8, 16, 32)
BINS = 16  # of the distribution of a box's side
PROTOTYPES = 32  # of masks
# The plan of YOLOv8: rows of (input, repeats, layer, arguments); -1 is the row before.
BACKBONE = [
    [-1, 1, "ConvNormAct", [64, 3, 2]],
    [-1, 1, "ConvNormAct", [128, 3, 2]],
    [-1, 3, "C2f", [128, True]],
    [-1, 1, "ConvNormAct", [256, 3, 2]],
    [-1, 6, "C2f", [256, True]],
    [-1, 1, "ConvNormAct", [512, 3, 2]],
    [-1, 6, "C2f", [512, True]],
    [-1, 1, "ConvNormAct", [1024, 3, 2]],
    [-1, 3, "C2f", [1024, True]],
    [-1, 1, "SPPF", [1024, 5]],
]
NECK = [
    [-1, 1, "Upsample", ["None", 2, "nearest"]],
    [[-1, 6], 1, "Concat", [1]],
    [-1, 3, "C2f", [512]],
    [-1, 1, "Upsample", ["None", 2, "nearest"]],
    [[-1, 4], 1, "Concat", [1]],
    [-1, 3, "C2f", [256]],
    [-1, 1, "ConvNormAct", [256, 3, 2]],
    [[-1, 12], 1, "Concat", [1]],
    [-1, 3, "C2f", [512]],
    [-1, 1, "ConvNormAct", [512, 3, 2]],
    [[-1, 9], 1, "Concat", [1]],
    [-1, 3, "C2f", [1024]],
]
HEADS = {
    "detect": ("YOLOv8Head", ["nc", "reg_max", "stride"]),
    "segment": ("YOLOv8SegHead", ["nc", "reg_max", PROTOTYPES, 256, "stride"]),
}
# What stays dense: the convolution of the pixels, and the last ones of the head, which give boxes, classes and masks.
DENSE_LAYERS = {
    "detect": ["model.model.0.conv", "model.model.22.cv[23].?.2"],
    "segment": ["model.model.0.conv", "model.model.22.cv[234].?.2"],
}


def build_network(task, size, classes):
    """YOLOv8 for a number of classes, with random weights.

    In training it returns what `build_loss` takes. In evaluation its first output is float32 (N, points, 4 + classes):
    centre x and y, width and height in pixels, and a score from 0 to 1 for each class; for segmentation (N, points, 4 +
    classes + 32), and its second output ends with the prototypes (N, 32, size / 4, size / 4).
    """
    depth, width, most = SIZES[size]
    head, arguments = HEADS[task]
    plan = {
        "nc": classes,
        "reg_max": BINS,
        "stride": list(STRIDES),
        "depth_multiple": depth,
        "width_multiple": width,
        "max_channels": most,
        "backbone": BACKBONE,
        "head": [*NECK, [[15, 18, 21], 1, head, arguments]],
    }
    logging.disable(logging.WARNING)
    try:
        return create_model("yolov8", model_cfg=Config(plan), num_classes=classes)
    finally:
        logging.disable(logging.NOTSET)


class TrainingNetwork(nn.Cell):
    """Network and loss as one Cell of a batch; its parameters keep the names that they have in the network.

    The loss is the mean over the pictures of a batch times the size of the batch of all workers, as in mindyolo: the
    learning rates are for that.
    """

    def __init__(self, network, settings, classes):
        super().__init__(auto_prefix=False)
        self.network = network
        gains = {"box": settings.box_gain, "cls": settings.class_gain, "dfl": settings.dfl_gain}
        common = {**gains, "stride": list(STRIDES), "nc": classes, "reg_max": BINS}
        if settings.task == "segment":
            points = sum((settings.image_size // stride) ** 2 for stride in STRIDES)
            # As many points as carry an object at most, of which mindyolo's loss computes masks.
            self.loss = create_loss("YOLOv8SegLoss", nm=PROTOTYPES, max_object_num=min(600, points), **common)
        else:
            self.loss = create_loss("YOLOv8Loss", **common)
        self.masks = settings.task == "segment"
        self.batch_size = settings.batch_size

    def construct(self, images, targets, masks=None):
        last = masks if self.masks else images
        loss, _ = self.loss(self.network(images), targets, last)
        return loss * (self.batch_size / images.shape[0])


class DeployedNetwork(nn.Cell):
    """The network as it is deployed: what evaluation looks at, and nothing else."""

    def __init__(self, network, task):
        super().__init__(auto_prefix=False)
        self.network = network
        self.masks = task == "segment"
        self.set_train(False)

    def construct(self, images):
        predictions, rest = self.network(images)
        if self.masks:
            return predictions, rest[2]
        return predictions


def write_detector(path, network, settings, classes, categories, weights):
    """Write the network with all that is needed to use it; weights: the Parameters that were pruned."""
    description = {
        "detector": {"task": settings.task, "size": settings.size, "image_size": settings.image_size},
        "classes": list(classes),
        "categories": list(categories),
        "config": settings.model_dump(),
        "pruned": [weight.name for weight in weights],
    }
    write_network(path, network, description)


def read_detector(path):
    """The network of a checkpoint of `write_detector`, in evaluation mode, and its description. Raises InputError."""
    tensors, description = read_checkpoint(path)
    try:
        detector, classes = description["detector"], description["classes"]
        network = build_network(detector["task"], detector["size"], len(classes))
    except (KeyError, TypeError):
        raise InputError(f"{path}: not a network of this example") from None
    load_weights(network, tensors, path)
    return network.set_train(False), description


def load_pretrained(network, path):
    """Take over the weights of a checkpoint, of this example or of mindyolo, as far as they fit.

    The convolutions that tell classes apart may be for others; their names are returned. Raises InputError if any other
    parameter is missing or has another shape.
    """
    tensors, _ = read_any_checkpoint(path)
    parameters = network.parameters_dict()
    unfit = [name for name, p in parameters.items() if name not in tensors or tensors[name].shape != tuple(p.shape)]
    wrong = [name for name in unfit if not name.startswith("model.model.22.cv3.")]
    if wrong:
        raise InputError(
            f"pretrained: {path} does not fit the network: {len(wrong)} parameters, the first is {wrong[0]}"
        )
    kept = {name: parameters[name].asnumpy() for name in unfit}
    load_weights(network, {name: kept.get(name, tensors.get(name)) for name in parameters}, path)
    return unfit


def inputs(images):
    """A batch as the network takes it."""
    return Tensor(np.stack(images))
