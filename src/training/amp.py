"""Mixed precision: a network that computes in float16 on float32 weights, and gradients with dynamic loss scaling.

The weights that the optimiser, the pruner and the rank term see are the float32 ones throughout.
"""

import copy

import mindspore as ms
from mindspore import amp, jit_class

INITIAL_SCALE, SCALE_FACTOR, SCALE_WINDOW = 2.0**16, 2, 2000


def mixed_precision(network, level):
    """A network that computes at an amp level (O2, O3 or auto, as in `mindspore.amp`) on the weights of `network`.

    It is a converted copy of the cells, on the very same Parameters; `network` itself, of whatever class, stays as it
    is, for evaluation in float32.
    """
    twin = copy.deepcopy(network, {id(parameter): parameter for parameter in network.get_parameters()})
    return amp.auto_mixed_precision(twin.set_train(), level)


@jit_class
class LossScale(amp.DynamicLossScaler):
    """Dynamic loss scaling; `state` is all that a resumed run needs of it."""

    def __init__(self):
        super().__init__(INITIAL_SCALE, SCALE_FACTOR, SCALE_WINDOW)
        self.scale_value.requires_grad = False
        self.counter.requires_grad = False
        self.scale_value.name, self.counter.name = "loss_scale.value", "loss_scale.counter"

    @property
    def state(self):
        """The Parameters that change."""
        return [self.scale_value, self.counter]


def value_and_grad(function, parameters, scale=None, has_aux=False):
    """`mindspore.value_and_grad` with respect to `parameters`, through a scaled loss if a LossScale is given.

    The values are returned as without it, the gradients unscaled; an overflow leaves Inf or NaN in them.
    """
    if scale is None:
        return ms.value_and_grad(function, None, parameters, has_aux=has_aux)

    def scaled(*batch):
        values = function(*batch)
        loss = values[0] if has_aux else values
        return loss * scale.scale_value, values

    gradients_of_scaled = ms.value_and_grad(scaled, None, parameters, has_aux=True)

    def unscaled(*batch):
        (_, values), gradients = gradients_of_scaled(*batch)
        return values, scale.unscale(gradients)

    return unscaled


def is_finite(gradients):
    """Whether no gradient of a tuple has Inf or NaN, as a boolean Tensor."""
    return amp.all_finite(gradients)
