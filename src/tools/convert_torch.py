"""Convert weights between PyTorch and MindSpore: python -m src.tools.convert_torch IN OUT

From PyTorch (.pth, .pt, .tar, .safetensors) to a deployable checkpoint (.ckpt) that eval.py and export.py take, and
from a deployable checkpoint to PyTorch's names (.safetensors, or .pth where PyTorch is installed).

With PYTHONSAFEPATH, Python looks for no module in the working folder: PYTHONPATH=. python -m src.tools.convert_torch
does, and so does the command rpg-convert-torch of the installed package.
"""

import io
from functools import partial
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from ..config.keys import resolve
from ..data import PUBLISHED
from ..models import build_model
from ..platform.command_line import Parser
from ..platform.errors import InputError, run_program
from ..platform.files import check_new, replace_file, writing
from ..weights.checkpoint import load_weights, read_any_checkpoint, write_network
from ..weights.naming import identify, to_torch
from ..weights.pretrained import read_weights
from ..weights.trained import load_trained

_TORCH_SUFFIXES = (".safetensors", ".pth")
_SMALL_IMAGES = ("cifar10", "cifar100", "characters", "digits")


def main():
    """Convert the file on the command line."""
    parser = Parser("Convert weights from PyTorch to a deployable checkpoint, or back.")
    parser.add_argument("input", metavar="IN", help="PyTorch checkpoint or safetensors, or a deployable .ckpt")
    parser.add_argument("output", metavar="OUT", help="file.ckpt, or for the way back file.safetensors or file.pth")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT, if it exists")
    parser.add_argument("--dataset", choices=tuple(PUBLISHED), help="data set of the network, if it has to be said")
    arguments = parser.parse_args()
    source, target = Path(arguments.input), Path(arguments.output)
    if not target.parent.is_dir():
        raise InputError(f"OUT: the folder {target.parent} does not exist")
    if target.resolve() == source.resolve():
        raise InputError(f"OUT: {target} is the input file; choose another name")
    check_new(target, arguments.overwrite, "OUT")
    if target.suffix == ".ckpt":
        if _is_of_this_project(source):
            raise InputError(f"{source}: has MindSpore's names already; to PyTorch, OUT ends in .safetensors or .pth")
        print(torch_to_mindspore(source, target, arguments.dataset))
    elif target.suffix in _TORCH_SUFFIXES:
        if source.suffix in _TORCH_SUFFIXES:
            raise InputError(f"{source}: has PyTorch's names already; from PyTorch, OUT ends in .ckpt")
        print(mindspore_to_torch(source, target))
    else:
        raise InputError(f"OUT: {target} ends in none of .ckpt, .safetensors and .pth")


def torch_to_mindspore(source, target, dataset=None):
    """Write the deployable checkpoint of a PyTorch file; returns a line on what it holds. Raises InputError."""
    tensors = read_weights(source)
    try:
        model = identify(tensors)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    dataset = dataset or _guess_dataset(source, model)
    data = PUBLISHED[dataset]
    if not _fits(model, data):
        raise InputError(
            f"{source}: a network for {_described(model)} does not fit {dataset}, which has {data.NUM_CLASSES} and "
            f"{data.IMAGE_SHAPE[0]}, of {data.IMAGE_SHAPE[1]} pixels"
        )
    network = build_model(**model)
    load_weights(network, tensors, source)
    arguments = ",".join(f"{key}={value}" for key, value in model.get("arguments", {}).items())
    own = {"model": model["name"], "model_args": arguments, "width_factor": model["width_factor"]}
    config = resolve({**own, "dataset": dataset, "method": "dense"})
    description = {"model": model, "image_shape": list(data.IMAGE_SHAPE), "config": dict(config)}
    with writing(target, "OUT"):
        write_network(target, network, description)
    return f"{target}: {model['name']} for {dataset}, {_count(tensors)}"


def mindspore_to_torch(source, target):
    """Write a deployable checkpoint's weights under torchvision's names; returns a line on it. Raises InputError."""
    trained = load_trained(source)
    tensors = {parameter.name: parameter.asnumpy() for parameter in trained.network.get_parameters()}
    renamed = to_torch(tensors)
    content = _torch_file(renamed) if target.suffix == ".pth" else save(_contiguous(renamed))
    with writing(target, "OUT"):
        replace_file(target, [content])
    return f"{target}: {trained.config.model} under PyTorch's names, {_count(tensors)}"


def _torch_file(tensors):
    """The bytes that torch.save writes."""
    try:
        import torch
    except ImportError:
        raise InputError(
            "writing .pth needs PyTorch, which is not installed here; give a .safetensors name instead"
        ) from None
    file = io.BytesIO()
    torch.save({name: torch.from_numpy(value) for name, value in _contiguous(tensors).items()}, file)
    return file.getvalue()


def _contiguous(tensors):
    return {name: np.array(value, order="C") for name, value in tensors.items()}


def _is_of_this_project(path):
    """Whether a file is a MindSpore checkpoint with a description inside."""
    try:
        return read_any_checkpoint(path)[1] is not None
    except InputError:
        return False


def _guess_dataset(source, model):
    """The data set that a network is for: by the kind of network, its number of classes and of colours."""
    small = model["width_factor"] > 1 or model["name"] in ("resnet20", "resnet32", "resnet56", "vgg19")
    names = _SMALL_IMAGES if small else ("imagenet",)
    if "arguments" in model:  # which say the size of its images
        names = (*_SMALL_IMAGES, "imagenet")
    for name in names:
        if _fits(model, PUBLISHED[name]):
            return name
    raise InputError(
        f"{source}: a {model['name']} for {_described(model)} fits none of {', '.join(names)}; "
        "name its data set with --dataset"
    )


def _fits(model, data):
    """Whether a network has the classes and the colours of a data set, and its image size where it depends on one."""
    size = model.get("arguments", {}).get("image_size", data.IMAGE_SHAPE[1])
    return (model["num_classes"], model["in_channels"], size) == (data.NUM_CLASSES, *data.IMAGE_SHAPE[:2])


def _described(model):
    size = model.get("arguments", {}).get("image_size")
    pixels = f", of {size} pixels" if size else ""
    return f"{model['num_classes']} classes and {model['in_channels']} colours{pixels}"


def _count(tensors):
    """Zeros among the convolution and dense weights, in words."""
    weights = [value for value in tensors.values() if value.ndim > 1]
    total, zeros = sum(w.size for w in weights), sum(w.size - np.count_nonzero(w) for w in weights)
    return f"{zeros:,} of {total:,} weights are zero ({100 * zeros / total:.2f} %)"


program = partial(run_program, main)

if __name__ == "__main__":
    program()
