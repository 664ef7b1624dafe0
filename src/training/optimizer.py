"""SGD with momentum, weight decay on weights alone, and the learning rate of every step."""

import math

from mindspore import nn


def learning_rates(peak, total_steps, warmup_steps):
    """The learning rate of each step: a linear ramp up to `peak`, then a cosine from `peak` to 0 over what remains.

    That is the released schedule. Step `warmup_steps` - 1 and the one after it both have `peak`; a warm-up as long as
    the run leaves the ramp alone.
    """
    ramp = [peak * (step + 1) / warmup_steps for step in range(min(warmup_steps, total_steps))]
    rest = total_steps - len(ramp)
    return ramp + [peak * (1 + math.cos(math.pi * step / rest)) / 2 for step in range(rest)]


def build_optimizer(network, rates, momentum, nesterov, weight_decay):
    """nn.Momentum over a network's parameters; BatchNorm and biases (all that is one-dimensional) are not decayed."""
    parameters = network.trainable_params()
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        {"order_params": parameters},
    ]
    return nn.Momentum(groups, rates, momentum, use_nesterov=nesterov)
