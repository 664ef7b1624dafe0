"""Networks of mindcv (https://github.com/mindspore-lab/mindcv), an optional package, as `mindcv/NAME`."""

import difflib
import math
from functools import partial
from types import MethodType

import yaml
from mindspore import nn

from ..platform.errors import InputError

PREFIX = "mindcv/"
VIT = "vit"  # mindcv has the class of these networks, and names for large ones of it alone


def build_mindcv(name, num_classes, in_channels, arguments):
    """A freshly initialised network of mindcv by its name there, with keyword arguments of its own.

    Raises InputError without mindcv, and for a name or an argument that it does not know.
    """
    try:
        import mindcv
    except ImportError:
        raise InputError(f"model: {PREFIX}{name} needs mindcv; run: pip install mindcv") from None
    if name != VIT and not mindcv.models.is_model(name):
        close = difflib.get_close_matches(name, [VIT, *mindcv.list_models()], n=1)
        mend = f"did you mean {PREFIX}{close[0]}?" if close else "mindcv.list_models() has the names"
        raise InputError(f"model: mindcv has no network {name}; {mend}")
    foreign = sorted({"pretrained", "checkpoint_path"} & set(arguments))  # mindcv would read or fetch a file
    if foreign:
        raise InputError(
            f"model_args: {foreign[0]}: weights to start from are named by --pretrained FILE; leave it out"
        )
    build = _vision_transformer if name == VIT else partial(mindcv.create_model, name)
    try:
        network = build(num_classes=num_classes, in_channels=in_channels, **arguments)
    except (TypeError, ValueError, AssertionError, ArithmeticError) as error:
        raise InputError(f"model_args: {PREFIX}{name} does not take {arguments}: {error}") from None
    _make_exportable(network)
    return network


def _vision_transformer(image_size=224, patch_size=16, **arguments):
    """mindcv's VisionTransformer, ViT-B/16 unless told, with what timm's has and mindcv's options cannot say: GELU by
    the error function, and 1e-6 in LayerNorm. Weights trained there give the same outputs here.

    Raises ValueError where the patches do not fill the image.
    """
    from mindcv.models.vit import VisionTransformer

    if image_size % patch_size:
        raise ValueError(f"patches of {patch_size} pixels do not divide an image of {image_size}")
    return VisionTransformer(
        image_size,
        patch_size,
        act_layer=partial(nn.GELU, approximate=False),
        norm_layer=partial(nn.LayerNorm, epsilon=1e-6),
        **arguments,
    )


def with_image_size(name, arguments, image_shape):
    """The arguments of a network for images (channels, height, width): one with an embedding of each position has to
    know their size. Raises InputError if they name another.
    """
    if name != PREFIX + VIT:
        return arguments
    size = image_shape[1]
    if arguments.get("image_size", size) != size:
        raise InputError(
            f"model_args: image_size {arguments['image_size']} is not that of the data, {size}; leave it out"
        )
    return {"image_size": size, **arguments}


def least_size(name, arguments):
    """Values that the network of a name and its arguments has at least, as far as they say: 0 where they say nothing.

    What they say may be nonsense, which building the network finds.
    """
    if name != PREFIX + VIT:
        return 0
    known = {"image_size": 1, "patch_size": 1, "embed_dim": 1, "depth": 1, "mlp_ratio": 0, **arguments}
    sizes = image, patch, width, depth, ratio = [known[key] for key in list(known)[:5]]
    if not all(isinstance(size, (int, float)) for size in sizes) or patch < 1:
        return 0
    if max(sizes) > 2**40:  # too large for a float, perhaps
        return math.inf
    return depth * width**2 * (4 + 2 * ratio) + width * (image // patch) ** 2


def _make_exportable(network):
    """Give EfficientNet's blocks, which add in place, and ViT's attention, which unstacks query, key and value,
    operations that MindSpore's ONNX exporter knows.
    """
    from mindcv.models.efficientnet import FusedMBConv, MBConv
    from mindcv.models.vit import Attention

    for _, cell in network.cells_and_names():
        if type(cell) in (MBConv, FusedMBConv):
            cell.construct = MethodType(_construct_block, cell)
        elif type(cell) is Attention:
            cell.unstack = _Unstack()


class _Unstack(nn.Cell):
    """The three parts of a tensor along its first axis."""

    def construct(self, x):
        return x[0], x[1], x[2]


def _construct_block(self, x):
    out = self.block(x)
    return self.dropout(out) + x if self.shortcut else out


def parse_arguments(text):
    """Keyword arguments from a text such as `dropout=0.1,alpha=0.75`, values as in YAML. Raises ValueError."""
    arguments = {}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if not (equals and name.strip().isidentifier()):
            raise ValueError(f"{part!r} is not NAME=VALUE")
        try:
            arguments[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ValueError(f"{value!r} is not a value in YAML") from None
    return arguments
