"""Convert weights between PyTorch and MindSpore: python -m src.tools.convert_torch IN OUT

From PyTorch (.pth, .pt, .tar, .safetensors) to a deployable checkpoint (.ckpt) that eval.py and export.py take, and
from a deployable checkpoint to PyTorch's names (.safetensors, or .pth where PyTorch is installed).
"""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from ..checkpoint import load_weights, read_checkpoint, write_network
from ..command_line import Parser
from ..config import resolve
from ..data import DATASETS
from ..errors import InputError, run_program
from ..models import build_model
from ..naming import identify, to_torch
from ..pretrained import read_weights


def main():
    """Convert the file on the command line."""
    parser = Parser("Convert weights from PyTorch to a deployable checkpoint, or back.")
    parser.add_argument("input", metavar="IN", help="PyTorch checkpoint or safetensors, or a deployable .ckpt")
    parser.add_argument("output", metavar="OUT", help="file.ckpt, or for the way back file.safetensors or file.pth")
    parser.add_argument("--dataset", choices=tuple(DATASETS), help="data set of the network, if it has to be said")
    arguments = parser.parse_args()
    source, target = Path(arguments.input), Path(arguments.output)
    if not target.parent.is_dir():
        raise InputError(f"OUT: the folder {target.parent} does not exist")
    if target.suffix == ".ckpt":
        print(torch_to_mindspore(source, target, arguments.dataset))
    elif target.suffix in (".safetensors", ".pth"):
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
    data = DATASETS[dataset]
    if (model["num_classes"], model["in_channels"]) != (data.NUM_CLASSES, data.IMAGE_SHAPE[0]):
        raise InputError(
            f"{source}: a network for {model['num_classes']} classes and {model['in_channels']} colours does not fit "
            f"{dataset}, which has {data.NUM_CLASSES} and {data.IMAGE_SHAPE[0]}"
        )
    network = build_model(**model)
    load_weights(network, tensors, source)
    config = resolve(
        {"model": model["name"], "width_factor": model["width_factor"], "dataset": dataset, "method": "dense"}
    )
    description = {"model": model, "image_shape": list(data.IMAGE_SHAPE), "config": dict(config)}
    write_network(target, network, description)
    return f"{target}: {model['name']} for {dataset}, {_count(tensors)}"


def mindspore_to_torch(source, target):
    """Write a deployable checkpoint's weights under torchvision's names; returns a line on it. Raises InputError."""
    tensors, description = read_checkpoint(source)
    if "model" not in description:
        raise InputError(f"{source}: not a deployable checkpoint; give the best.ckpt or last.ckpt of a run")
    renamed = to_torch(tensors)
    if target.suffix == ".pth":
        _save_torch(renamed, target)
    else:
        save_file({name: np.array(value, order="C") for name, value in renamed.items()}, target)
    return f"{target}: {description['model']['name']} under PyTorch's names, {_count(tensors)}"


def _save_torch(tensors, target):
    try:
        import torch
    except ImportError:
        raise InputError(
            "writing .pth needs PyTorch, which is not installed here; give a .safetensors name instead"
        ) from None
    torch.save({name: torch.from_numpy(np.array(value)) for name, value in tensors.items()}, target)


def _guess_dataset(source, model):
    """The data set of the published networks: by the kind of network and its number of classes."""
    small = model["width_factor"] > 1 or model["name"] in ("resnet20", "resnet32", "resnet56", "vgg19")
    names = ("cifar10", "cifar100") if small else ("imagenet",)
    for name in names:
        if (DATASETS[name].NUM_CLASSES, DATASETS[name].IMAGE_SHAPE[0]) == (model["num_classes"], model["in_channels"]):
            return name
    raise InputError(
        f"{source}: no data set here has {model['num_classes']} classes for {model['name']}; name one with --dataset"
    )


def _count(tensors):
    """Zeros among the convolution and dense weights, in words."""
    weights = [value for value in tensors.values() if value.ndim > 1]
    total, zeros = sum(w.size for w in weights), sum(w.size - np.count_nonzero(w) for w in weights)
    return f"{zeros:,} of {total:,} weights are zero ({100 * zeros / total:.2f} %)"


if __name__ == "__main__":
    run_program(main)
