"""SGD with momentum, weight decay on weights alone, and the learning rate of every step."""

import math

from mindspore import nn


def learning_rates(peak, total_steps, warmup_steps):
    """The learning rate of each step: a cosine from `peak` to 0, times a linear ramp over the warm-up."""
    return [
        peak * min(1.0, (step + 1) / max(warmup_steps, 1)) * (1 + math.cos(math.pi * step / total_steps)) / 2
        for step in range(total_steps)
    ]


def build_optimizer(network, rates, momentum, nesterov, weight_decay):
    """nn.Momentum over a network's parameters; BatchNorm and biases (all that is one-dimensional) are not decayed."""
    parameters = network.trainable_params()
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        {"order_params": parameters},
    ]
    return nn.Momentum(groups, rates, momentum, use_nesterov=nesterov)
