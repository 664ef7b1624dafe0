"""PyTorch's names of a network's weights and ours, in both directions, and which network they belong to.

PyTorch names are torchvision's (conv1.weight, layer1.0.bn2.running_mean, layer2.0.downsample.0.weight, fc.weight;
features.0.weight for VGG), with the variants in wide use: a `module.` prefix, `shortcut` for `downsample`, `linear` or
`classifier` for `fc`, `feature` for `features`.
"""

import re

import numpy as np

from ..platform.errors import InputError

_STATISTICS = {"running_mean": "moving_mean", "running_var": "moving_variance"}
_AFFINE = {"weight": "gamma", "bias": "beta"}
_IMAGENET_LAYERS = {  # (blocks per stage, convolutions per block) -> depth
    ((2, 2, 2, 2), 2): 18,
    ((3, 4, 6, 3), 2): 34,
    ((3, 4, 6, 3), 3): 50,
    ((3, 4, 23, 3), 3): 101,
}


def is_torch_named(tensors):
    """Whether names are PyTorch's; networks of ours and PyTorch's without BatchNorm do not occur."""
    return any(name.endswith(".running_mean") for name in tensors)


def from_torch(tensors):
    """Weights under our names, float32, from those under PyTorch's."""
    tensors = {re.sub(r"^(module\.)+", "", name): value for name, value in tensors.items()}
    renamed = {}
    for name, value in tensors.items():
        layer, _, kind = name.rpartition(".")
        if kind == "num_batches_tracked":
            continue
        normalisation = f"{layer}.running_mean" in tensors
        kind = _STATISTICS.get(kind) or (_AFFINE.get(kind, kind) if normalisation else kind)
        with np.errstate(over="ignore"):  # found with all that is not finite
            renamed[f"{_layer_from_torch(layer)}.{kind}"] = np.asarray(value, np.float32)
    return _fold_biases(renamed)


def to_torch(tensors):
    """Weights under torchvision's names from those under ours, with the step counters that PyTorch expects."""
    resnet = "conv1.weight" in tensors
    kinds = {ours: theirs for table in (_STATISTICS, _AFFINE) for theirs, ours in table.items()}
    renamed = {}
    for name, value in tensors.items():
        layer, _, kind = name.rpartition(".")
        layer = layer.replace("down_sample", "downsample")
        if resnet and layer == "classifier":
            layer = "fc"
        renamed[f"{layer}.{kinds.get(kind, kind)}"] = value
        if kind == "moving_variance":
            renamed[f"{layer}.num_batches_tracked"] = np.array(0, np.int64)
    return renamed


def identify(tensors):
    """What `build_model` needs to build the network that weights under our names belong to.

    Raises InputError if it is none of ours.
    """
    try:
        num_classes, _ = tensors["classifier.weight"].shape
        if "features.0.weight" in tensors:
            return _model("vgg19", num_classes, tensors["features.0.weight"].shape[1])
        width, in_channels, size, _ = tensors["conv1.weight"].shape
    except (KeyError, ValueError, IndexError):  # missing, or of other dimensions
        raise InputError(
            "not a ResNet or VGG of one linear layer: no conv1 or features.0, or no fc or classifier"
        ) from None
    blocks = [
        len({name.split(".")[1] for name in tensors if name.startswith(f"layer{stage}.")}) for stage in range(1, 5)
    ]
    convolutions = len({name for name in tensors if re.fullmatch(r"layer1\.0\.conv\d\.weight", name)})
    if size == 7:
        depth = _IMAGENET_LAYERS.get((tuple(blocks), convolutions))
        if depth:
            return _model(f"resnet{depth}", num_classes, in_channels)
    elif blocks[3] == 0 and len(set(blocks[:3])) == 1 and convolutions == 2 and width % 16 == 0:
        depth = 6 * blocks[0] + 2
        if depth in (20, 32, 56):
            return _model(f"resnet{depth}", num_classes, in_channels, width // 16)
    raise InputError(
        f"no network here has {size}x{size} stem, {convolutions} convolutions per block and {blocks} blocks per stage"
    )


def _model(name, num_classes, in_channels, width_factor=1):
    return {"name": name, "num_classes": num_classes, "in_channels": in_channels, "width_factor": width_factor}


def _layer_from_torch(layer):
    layer = re.sub(r"\b(downsample|shortcut)\b", "down_sample", layer)
    layer = re.sub(r"^feature\b", "features", layer)
    return "classifier" if layer in ("fc", "linear", "classifier.0") else layer


def _fold_biases(tensors):
    """Move the biases of VGG's convolutions, which torchvision has, into the mean of the BatchNorm behind them."""
    for name in [n for n in tensors if re.fullmatch(r"features\.\d+\.bias", n)]:
        index = int(name.split(".")[1])
        mean = f"features.{index + 1}.moving_mean"
        if f"features.{index}.weight" in tensors and mean in tensors and tensors[mean].shape == tensors[name].shape:
            tensors[mean] = tensors[mean] - tensors.pop(name)
    return tensors
