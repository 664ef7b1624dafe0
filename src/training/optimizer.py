"""The optimisers by name, weight decay on weights alone, and the learning rate of every step."""

import math

import mindspore as ms
from mindspore import nn, ops


def learning_rates(peak, total_steps, warmup_steps):
    """The learning rate of each step: a linear ramp up to `peak`, then a cosine from `peak` to 0 over what remains.

    That is the released schedule. Step `warmup_steps` - 1 and the one after it both have `peak`; a warm-up as long as
    the run leaves the ramp alone.
    """
    ramp = [peak * (step + 1) / warmup_steps for step in range(min(warmup_steps, total_steps))]
    rest = total_steps - len(ramp)
    return ramp + [peak * (1 + math.cos(math.pi * step / rest)) / 2 for step in range(rest)]


def build_optimizer(network, rates, momentum, nesterov, weight_decay, name="momentum"):
    """The optimiser `name` over a network's parameters; normalisation and biases (all that is one-dimensional) are not
    decayed, nor what the network's `no_weight_decay()` names, if it has that: a transformer's class token and
    positions. Only the optimiser `momentum` has use for momentum and nesterov.
    """
    parameters = network.trainable_params()
    spared = getattr(network, "no_weight_decay", tuple)()
    decays = [weight_decay if p.ndim > 1 and p.name not in spared else 0.0 for p in parameters]
    if name in DECOUPLED:
        return DECOUPLED[name](parameters, rates, decays)
    groups = [
        {"params": [p for p, decay in zip(parameters, decays) if decay == rate], "weight_decay": rate}
        for rate in dict.fromkeys(decays)
    ]
    groups.append({"order_params": parameters})
    if name == "sgd":  # nn.SGD would keep two states of every parameter, of which it uses none
        return nn.Momentum(groups, rates, 0.0)
    return nn.Momentum(groups, rates, momentum, use_nesterov=nesterov)


_decay = ops.MultitypeFuncGraph("decoupled_decay")
_lion = ops.MultitypeFuncGraph("lion")


@_decay.register("Tensor", "Tensor", "Number")
def _decay_one(rate, parameter, decay):
    return ops.assign(parameter, parameter * (1 - rate * decay)) if decay else parameter


@_lion.register("Number", "Number", "Tensor", "Tensor", "Tensor", "Tensor")
def _lion_one(beta1, beta2, rate, parameter, moment, gradient):
    update = ops.sign(beta1 * moment + (1 - beta1) * gradient)
    moved = ops.assign(moment, ops.depend(beta2 * moment + (1 - beta2) * gradient, update))
    return ops.depend(ops.assign(parameter, parameter - rate * update), moved)


class AdamW(nn.Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019): each step first takes the share
    learning rate * decay of a weight away, which does not enter the moments; decays: one for each parameter.

    nn.AdamWeightDecay has no correction for moments that begin at zero, and so makes first steps three times as long.
    """

    def __init__(self, parameters, rates, decays, beta1=0.9, beta2=0.999):
        super().__init__(parameters, rates, beta1, beta2)
        self.decays = tuple(decays)

    @ms.jit
    def construct(self, gradients):
        decayed = self.map_(ops.partial(_decay, self.get_lr()), self._parameters, self.decays)
        return super().construct(ops.depend(gradients, decayed))


class Lion(nn.Optimizer):
    """Steps of one length, by the sign of a momentum (Chen et al., 2023), with decoupled weight decay.

    A weight whose gradient and moment are zero has the sign zero: it stays where it is.
    """

    def __init__(self, parameters, rates, decays, beta1=0.9, beta2=0.99):
        super().__init__(rates, parameters)
        self.betas = (beta1, beta2)
        self.decays = tuple(decays)
        self.moments = self._parameters.clone(prefix="moments", init="zeros")
        self.map_ = ops.Map()

    @ms.jit
    def construct(self, gradients):
        rate = self.get_lr()
        decayed = self.map_(ops.partial(_decay, rate), self._parameters, self.decays)
        gradients = ops.depend(gradients, (decayed, self.assignadd(self.global_step, self.global_step_increase_tensor)))
        move = ops.partial(_lion, self.betas[0], self.betas[1], rate)
        return self.map_(move, self._parameters, self.moments, gradients)


DECOUPLED = {"adamw": AdamW, "lion": Lion}
