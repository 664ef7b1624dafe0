"""ResNet and VGG in plain numpy, from weights under PyTorch's names: independent of the networks under test."""

import re

import numpy as np


def forward(weights, images):
    """Logits of images (N, C, H, W) by a state dict (name -> array)."""
    run = _Forward(weights)
    return run.vgg(images) if "features.0.weight" in weights else run.resnet(images)


def convolve(x, weight, stride=1, bias=None):
    """Convolution padded by half the kernel."""
    pad = weight.shape[2] // 2
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], (2, 3))[:, :, ::stride, ::stride]
    out = np.tensordot(windows, weight, ((1, 4, 5), (1, 2, 3))).transpose(0, 3, 1, 2)
    return out if bias is None else out + bias[:, None, None]


def pool(x, size, stride, pad):
    """Maximum over square windows."""
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=-np.inf)
    return np.lib.stride_tricks.sliding_window_view(x, (size, size), (2, 3))[:, :, ::stride, ::stride].max((4, 5))


class _Forward:
    def __init__(self, weights):
        self.weights = weights

    def normalise(self, x, layer):
        get = lambda kind: self.weights[f"{layer}.{kind}"][:, None, None]  # noqa: E731
        return (x - get("running_mean")) / np.sqrt(get("running_var") + 1e-5) * get("weight") + get("bias")

    def linear(self, x, layer):
        return x.mean((2, 3)) @ self.weights[f"{layer}.weight"].T + self.weights[f"{layer}.bias"]

    def resnet(self, x):
        large = self.weights["conv1.weight"].shape[2] == 7
        x = np.maximum(self.normalise(convolve(x, self.weights["conv1.weight"], 2 if large else 1), "bn1"), 0)
        if large:
            x = pool(x, 3, 2, 1)
        names = dict.fromkeys(name.rpartition(".conv1")[0] for name in self.weights if ".conv1" in name)
        for block in names:
            stage, index = re.fullmatch(r"layer(\d)\.(\d+)", block).groups()
            x = self.block(x, block, 2 if int(stage) > 1 and index == "0" else 1)
        return self.linear(x, "fc")

    def block(self, x, block, stride):
        bottleneck = f"{block}.conv3.weight" in self.weights
        strides = (1, stride, 1) if bottleneck else (stride, 1)
        out = x
        for number, step in enumerate(strides, start=1):
            out = convolve(out, self.weights[f"{block}.conv{number}.weight"], step)
            out = self.normalise(out, f"{block}.bn{number}")
            if number < len(strides):
                out = np.maximum(out, 0)
        if f"{block}.downsample.0.weight" in self.weights:
            x = convolve(x, self.weights[f"{block}.downsample.0.weight"], stride)
            x = self.normalise(x, f"{block}.downsample.1")
        return np.maximum(out + x, 0)

    def vgg(self, x):
        indices = sorted(int(n.split(".")[1]) for n in self.weights if re.fullmatch(r"features\.\d+\.running_mean", n))
        for index in indices:
            conv = f"features.{index - 1}"
            x = convolve(x, self.weights[f"{conv}.weight"], bias=self.weights.get(f"{conv}.bias"))
            x = np.maximum(self.normalise(x, f"features.{index}"), 0)
            if f"features.{index + 2}.weight" not in self.weights:  # two indices further unless a pooling is between
                x = pool(x, 2, 2, 0)
        return self.linear(x, "classifier")
