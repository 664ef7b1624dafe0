"""train.py with a network that compiles in a second, for tests that start it often: python tests/tiny_train.py ..."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import src  # noqa: F401,I001  sets the environment before mindspore loads

from mindspore import nn, ops

from src.models import MODELS


class Tiny(nn.Cell):
    """Two convolutions with BatchNorm, and a dense layer; in the place of the default network."""

    def __init__(self, num_classes, in_channels, width_factor=1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 8, 3, pad_mode="pad", padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, pad_mode="pad", padding=1)
        self.classifier = nn.Dense(16, num_classes)

    def construct(self, images):
        """Logits (N, classes)."""
        features = ops.relu(self.norm(self.conv1(images)))
        return self.classifier(ops.relu(self.conv2(features)).mean((2, 3)))


if __name__ == "__main__":
    MODELS["resnet20"] = Tiny
    from src.platform.errors import run_program
    from src.programs import train

    run_program(train.main)
