"""VGG-19 with BatchNorm for small images (Simonyan and Zisserman, 2015, configuration E, with one linear layer).

Parameters are named as in mindcv and torchvision: `features.<index>`, `classifier`.
"""

from mindspore import nn

from .resnet import convolution

STAGES = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))  # convolutions and their width, before each pooling


class VGG(nn.Cell):
    """VGG over images (N, in_channels, 32, 32), returning logits (N, num_classes).

    Convolutions have no bias: the BatchNorm behind each of them has one.
    """

    def __init__(self, num_classes, in_channels=3):
        super().__init__()
        cells = []
        for count, width in STAGES:
            for _ in range(count):
                cells += [convolution(in_channels, width, 3), nn.BatchNorm2d(width), nn.ReLU()]
                in_channels = width
            cells.append(nn.MaxPool2d(2, 2))
        self.features = nn.SequentialCell(*cells)
        self.classifier = nn.Dense(in_channels, num_classes)

    def construct(self, x):
        return self.classifier(self.features(x).mean((2, 3)))
