"""Networks of mindcv (https://github.com/mindspore-lab/mindcv), an optional package, as `mindcv/NAME`."""

import difflib
from types import MethodType

import yaml

from ..platform.errors import InputError

PREFIX = "mindcv/"


def build_mindcv(name, num_classes, in_channels, arguments):
    """A freshly initialised network of mindcv by its name there, with keyword arguments of its own.

    Raises InputError without mindcv, and for a name or an argument that it does not know.
    """
    try:
        import mindcv
    except ImportError:
        raise InputError(f"model: {PREFIX}{name} needs mindcv; run: pip install mindcv") from None
    if not mindcv.models.is_model(name):
        close = difflib.get_close_matches(name, mindcv.list_models(), n=1)
        mend = f"did you mean {PREFIX}{close[0]}?" if close else "mindcv.list_models() has the names"
        raise InputError(f"model: mindcv has no network {name}; {mend}")
    foreign = sorted({"pretrained", "checkpoint_path"} & set(arguments))  # mindcv would read or fetch a file
    if foreign:
        raise InputError(
            f"model_args: {foreign[0]}: weights to start from are named by --pretrained FILE; leave it out"
        )
    try:
        network = mindcv.create_model(name, num_classes=num_classes, in_channels=in_channels, **arguments)
    except (TypeError, ValueError) as error:
        raise InputError(f"model_args: {PREFIX}{name} does not take {arguments}: {error}") from None
    _sum_out_of_place(network)
    return network


def _sum_out_of_place(network):
    """Give EfficientNet's blocks, which add in place, a sum that MindSpore's ONNX exporter knows."""
    from mindcv.models.efficientnet import FusedMBConv, MBConv

    for _, cell in network.cells_and_names():
        if type(cell) in (MBConv, FusedMBConv):
            cell.construct = MethodType(_construct_block, cell)


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
