"""Residual networks (He et al., 2016): the CIFAR family 20/32/56 and the ImageNet family 18/34/50/101.

Parameters are named as in mindcv (conv1, layer1.0.bn2, down_sample.0, classifier).
"""

from mindspore import nn, ops
from mindspore.common.initializer import HeNormal


def convolution(in_channels, out_channels, kernel_size, stride=1):
    """Convolution without bias, padded to keep the size at stride 1, He-initialised by its fan-out."""
    return nn.Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride,
        pad_mode="pad",
        padding=kernel_size // 2,
        has_bias=False,
        weight_init=HeNormal(mode="fan_out", nonlinearity="relu"),
    )


class BasicBlock(nn.Cell):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, in_channels, width, stride):
        super().__init__()
        self.conv1 = convolution(in_channels, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.down_sample = shortcut(in_channels, width, stride)

    def construct(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + self.down_sample(x))


class Bottleneck(nn.Cell):
    """1x1, 3x3 (which carries the stride) and 1x1 convolutions and a shortcut."""

    expansion = 4

    def __init__(self, in_channels, width, stride):
        super().__init__()
        self.conv1 = convolution(in_channels, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = convolution(width, width * self.expansion, 1)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU()
        self.down_sample = shortcut(in_channels, width * self.expansion, stride)

    def construct(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + self.down_sample(x))


def shortcut(in_channels, out_channels, stride):
    """Identity where the shapes agree, otherwise a strided 1x1 convolution."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.SequentialCell(convolution(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))


class ResNet(nn.Cell):
    """Residual network over images (N, in_channels, H, W), returning logits (N, num_classes).

    block: BasicBlock or Bottleneck; layers: blocks per stage; widths: channels per stage before expansion;
    stem: "cifar" (3x3 convolution) or "imagenet" (7x7 convolution of stride 2 and max pooling).
    """

    def __init__(self, block, layers, widths, stem, num_classes, in_channels=3):
        super().__init__()
        self.conv1 = convolution(in_channels, widths[0], 3) if stem == "cifar" else convolution(in_channels, 64, 7, 2)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        # Padding by hand: MaxPool2d's own "pad" mode does not convert to ONNX, nor does ConstantPad2d; Pad does.
        # After a ReLU, zero is a safe pad value.
        self.max_pool = (
            nn.SequentialCell(nn.Pad(((0, 0), (0, 0), (1, 1), (1, 1))), nn.MaxPool2d(3, 2, "valid"))
            if stem == "imagenet"
            else nn.Identity()
        )
        channels = widths[0]
        for stage, (count, width) in enumerate(zip(layers, widths)):
            blocks = []
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(block(channels, width, stride))
                channels = width * block.expansion
            setattr(self, f"layer{stage + 1}", nn.SequentialCell(*blocks))
        self.stages = [getattr(self, f"layer{stage + 1}") for stage in range(len(layers))]
        self.classifier = nn.Dense(channels, num_classes)

    def construct(self, x):
        x = self.max_pool(self.relu(self.bn1(self.conv1(x))))
        for stage in self.stages:
            x = stage(x)
        return self.classifier(ops.mean(x, (2, 3)))


def cifar_resnet(depth, width_factor=1, num_classes=10, in_channels=3):
    """ResNet-20/32/56 for small images: three stages of (depth - 2) / 6 basic blocks, 16/32/64 channels wide."""
    widths = [width_factor * width for width in (16, 32, 64)]
    return ResNet(BasicBlock, [(depth - 2) // 6] * 3, widths, "cifar", num_classes, in_channels)


def imagenet_resnet(depth, num_classes=1000, in_channels=3):
    """ResNet-18/34/50/101 for large images: four stages, 64 to 512 channels wide."""
    block, layers = {
        18: (BasicBlock, [2, 2, 2, 2]),
        34: (BasicBlock, [3, 4, 6, 3]),
        50: (Bottleneck, [3, 4, 6, 3]),
        101: (Bottleneck, [3, 4, 23, 3]),
    }[depth]
    return ResNet(block, layers, [64, 128, 256, 512], "imagenet", num_classes, in_channels)
