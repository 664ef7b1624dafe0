"""PyTorch's names of a network's weights and ours, in both directions, and which network they belong to.

PyTorch names are torchvision's (conv1.weight, layer1.0.bn2.running_mean, layer2.0.downsample.0.weight, fc.weight;
features.0.weight for VGG), with the variants in wide use: a `module.` prefix, `shortcut` for `downsample`, `linear` or
`classifier` for `fc`, `feature` for `features`. Those of vision transformers are timm's (patch_embed.proj.weight,
blocks.0.attn.qkv.weight), which DeiT's files have; mindcv, whose network is theirs here, has the same but for
normalisation.
"""

import math
import re

import numpy as np

from ..models.mindcv_networks import PREFIX, VIT
from ..platform.errors import InputError

_STATISTICS = {"running_mean": "moving_mean", "running_var": "moving_variance"}
_AFFINE = {"weight": "gamma", "bias": "beta"}
_IMAGENET_LAYERS = {  # (blocks per stage, convolutions per block) -> depth
    ((2, 2, 2, 2), 2): 18,
    ((3, 4, 6, 3), 2): 34,
    ((3, 4, 6, 3), 3): 50,
    ((3, 4, 23, 3), 3): 101,
}


_HEADS = {(192, 12): 3, (384, 12): 6, (512, 12): 8, (768, 12): 12, (1024, 24): 16}  # ViT, DeiT: (width, depth) -> heads
_LAYER_NORM = re.compile(r"(^|\.)(norm\d?|norm_pre|fc_norm|q_norm|k_norm)$")


def is_torch_named(tensors):
    """Whether names are PyTorch's; of networks without BatchNorm, only vision transformers occur."""
    return any(name.endswith(".running_mean") or re.search(r"\bblocks\.0\.norm1\.weight$", name) for name in tensors)


def from_torch(tensors):
    """Weights under our names, float32, from those under PyTorch's."""
    tensors = {re.sub(r"^(module\.)+", "", name): value for name, value in tensors.items()}
    renamed, transformer = {}, _is_transformer(tensors)
    for name, value in tensors.items():
        layer, dot, kind = name.rpartition(".")
        if kind == "num_batches_tracked":
            continue
        normalisation = f"{layer}.running_mean" in tensors or (transformer and _LAYER_NORM.search(layer))
        kind = _STATISTICS.get(kind) or (_AFFINE.get(kind, kind) if normalisation else kind)
        with np.errstate(over="ignore"):  # found with all that is not finite
            renamed[f"{_layer_from_torch(layer)}{dot}{kind}"] = np.asarray(value, np.float32)
    return _fold_biases(renamed)


def to_torch(tensors):
    """Weights under torchvision's or timm's names from those under ours, with PyTorch's step counters."""
    resnet = "conv1.weight" in tensors
    kinds = {ours: theirs for table in (_STATISTICS, _AFFINE) for theirs, ours in table.items()}
    renamed = {}
    for name, value in tensors.items():
        layer, dot, kind = name.rpartition(".")
        if _is_transformer(tensors) and not _LAYER_NORM.search(layer):
            renamed[name] = value
            continue
        layer = layer.replace("down_sample", "downsample")
        if resnet and layer == "classifier":
            layer = "fc"
        renamed[f"{layer}{dot}{kinds.get(kind, kind)}"] = value
        if kind == "moving_variance":
            renamed[f"{layer}.num_batches_tracked"] = np.array(0, np.int64)
    return renamed


def identify(tensors):
    """What `build_model` needs to build the network that weights under our names belong to.

    Raises InputError if it is none of ours.
    """
    if _is_transformer(tensors):
        return _identify_transformer(tensors)
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


def _is_transformer(tensors):
    return {"patch_embed.proj.weight", "pos_embed", "blocks.0.attn.qkv.weight"} <= tensors.keys()


def _identify_transformer(tensors):
    if "dist_token" in tensors:
        raise InputError("a distilled DeiT, with a second token and head, which mindcv has not; take the plain one")
    try:
        num_classes, _ = tensors["head.weight"].shape
        width, in_channels, patch, _ = tensors["patch_embed.proj.weight"].shape
        positions = tensors["pos_embed"].shape[1] - ("cls_token" in tensors)
    except (KeyError, ValueError, IndexError):
        raise InputError("not a vision transformer for classes: no head, or no images of patches") from None
    depth = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
    side = math.isqrt(positions)
    if (width, depth) not in _HEADS or side**2 != positions:
        raise InputError(
            f"a vision transformer of width {width}, {depth} blocks and {positions} patches: how many heads it has "
            f"no file says, and is known of DeiT's and ViT's square ones alone; start from it by --model {PREFIX}{VIT} "
            "--model_args num_heads=N,... --pretrained FILE"
        )
    sizes = {"patch_size": patch, "embed_dim": width, "depth": depth, "num_heads": _HEADS[width, depth]}
    return {**_model(PREFIX + VIT, num_classes, in_channels), "arguments": {"image_size": patch * side, **sizes}}


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
