"""Networks by name, ours and mindcv's; a new one is a module here, entered in `MODELS`. They know no pruning."""

from functools import partial

from ..platform.errors import InputError
from .mindcv_networks import PREFIX, build_mindcv
from .resnet import cifar_resnet, imagenet_resnet
from .vgg import VGG

MODELS = {
    "resnet20": partial(cifar_resnet, 20),
    "resnet32": partial(cifar_resnet, 32),
    "resnet56": partial(cifar_resnet, 56),
    "resnet18": partial(imagenet_resnet, 18),
    "resnet34": partial(imagenet_resnet, 34),
    "resnet50": partial(imagenet_resnet, 50),
    "resnet101": partial(imagenet_resnet, 101),
    "vgg19": VGG,
}
WITH_WIDTH_FACTOR = ("resnet20", "resnet32", "resnet56")


def build_model(name, num_classes, in_channels, width_factor=1, arguments=None):
    """A freshly initialised network by name; `width_factor` widens the CIFAR family only.

    arguments: keyword arguments of mindcv's networks, `mindcv/NAME`; ours take none. Raises InputError.
    """
    if name.startswith(PREFIX):
        return build_mindcv(name[len(PREFIX) :], num_classes, in_channels, arguments or {})
    if arguments:
        raise InputError(f"model_args: only for networks of mindcv, not for {name}; leave it out")
    options = {"width_factor": width_factor} if name in WITH_WIDTH_FACTOR else {}
    return MODELS[name](num_classes=num_classes, in_channels=in_channels, **options)
