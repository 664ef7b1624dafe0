"""The networks: published parameter counts, names, and initial statistics."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from src.models import build_model


def count(network):
    return sum(parameter.size for parameter in network.trainable_params())


@pytest.mark.parametrize(
    ("name", "classes", "parameters"),
    [
        ("resnet18", 1000, 11_689_512),
        ("resnet34", 1000, 21_797_672),
        ("resnet50", 1000, 25_557_032),
        ("resnet101", 1000, 44_549_160),
        ("resnet20", 10, 272_474),  # He et al. report 0.27 M; with projections in the two widening shortcuts
        ("resnet32", 10, 466_906),  # 0.46 M
        ("resnet56", 10, 855_770),  # 0.85 M
        ("vgg19", 10, 20_035_018),  # 20.04 M in the pruning literature, with one linear layer
    ],
)
def test_parameter_counts(name, classes, parameters):
    assert count(build_model(name, classes, 3)) == parameters


def test_width_factor_multiplies_the_weights():
    narrow, wide = build_model("resnet20", 10, 3), build_model("resnet20", 10, 3, width_factor=2)
    assert wide.conv1.weight.shape == (32, 3, 3, 3)
    assert 3.9 < count(wide) / count(narrow) < 4.0


@pytest.mark.parametrize(
    ("name", "size", "classes"),
    [("resnet20", 8, 10), ("resnet32", 32, 100), ("resnet18", 64, 1000), ("vgg19", 32, 100)],
)
def test_forward_shape(name, size, classes):
    network = build_model(name, classes, 3).set_train(False)
    assert network(Tensor(np.zeros((2, 3, size, size), np.float32))).shape == (2, classes)


def test_names_are_plain():
    names = {parameter.name for parameter in build_model("resnet18", 1000, 3).get_parameters()}
    expected = {
        "conv1.weight",
        "bn1.gamma",
        "bn1.moving_mean",
        "layer1.0.conv1.weight",
        "layer2.0.down_sample.0.weight",
        "layer4.1.bn2.beta",
        "classifier.weight",
        "classifier.bias",
    }
    assert expected <= names
    assert not any(name.startswith(("network.", "stages.")) for name in names)


def test_initialisation_keeps_the_variance_of_a_relu_network():
    ms.set_seed(0)
    weight = build_model("resnet50", 1000, 3).layer4[0].conv2.weight.asnumpy()
    fan_out = weight.shape[0] * 9
    assert weight.std() == pytest.approx(np.sqrt(2 / fan_out), rel=0.01)
    assert abs(weight.mean()) < 1e-4
