"""Numbers that are none: the first step whose loss or gradients are not finite, noted on the device.

The note stays there until somebody reads it where the program waits for the device anyway, so that a step costs a sum
per layer and no wait.
"""

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, jit_class, ops

from ..platform.errors import InputError

ADVICE = "lower lr or lengthen warmup_epochs; the checkpoints written before are whole"


@jit_class
class FiniteWatch:
    """Watches the loss and, among the gradients of some parameters, those of weights of two and more dimensions.

    The others, of BatchNorm and biases, stand between them: what breaks there reaches the loss or a weight at once, or
    in the next step.

    scale: LossScale of mixed precision, or None. Above its floor of 1 an overflow is its daily work, the step is
    skipped and the scale lowered; at the floor it can help no more, and what is not finite counts.

    record: int32 (2 + weights): the first bad step (0: none), then 1 for the loss and for every gradient that was not
    finite in it; without a bad step, in the last one.
    """

    def __init__(self, parameters, scale=None):
        self.watched = [index for index, parameter in enumerate(parameters) if parameter.ndim > 1]
        self.names = [parameters[index].name for index in self.watched]
        self.scale = scale
        self.record = Parameter(
            Tensor(np.zeros(2 + len(self.names), np.int32)), name="finite_watch.record", requires_grad=False
        )

    def note(self, steps_before, loss, gradients, finite=None):
        """Look at one step, counted from 1 after `steps_before` (int32 Tensor (1,)); compilable. Returns the record.

        finite: with loss scaling, the boolean Tensor by which the step is skipped or not. A device that computes in
        saturation mode reports an overflow by it alone, and leaves no Inf behind.
        """
        values = [loss.astype(ms.float32)]
        for index in self.watched:
            values.append(gradients[index].sum().astype(ms.float32))  # not finite if a summand is not
        broken = ops.logical_not(ops.isfinite(ops.stack(values))).astype(ms.int32)
        bad = broken.max()
        if self.scale is not None:
            if finite is not None:
                bad = ops.maximum(bad, ops.logical_not(finite).astype(ms.int32))
            bad = bad * (self.scale.scale_value <= 1).astype(ms.int32)
        found = ops.concat(((steps_before + 1) * bad, broken))
        return ops.assign(self.record, ops.where(self.record[0] > 0, self.record, found))

    def forget(self):
        """Start anew, when the parameters come from a state before the bad step."""
        ops.assign(self.record, ops.zeros_like(self.record))

    def check(self):
        """Read the record; raises InputError naming the step and the layer if something was not finite."""
        step, loss, *gradients = self.record.asnumpy().tolist()
        if not step:
            return
        names = [name for name, broken in zip(self.names, gradients) if broken]
        found = ["the loss"] if loss else []
        if names:  # gradients are computed from the last layer to the first: the last one named was the first to break
            others = f" (and of {len(names) - 1} more of {len(self.names)} weights)" if len(names) > 1 else ""
            found.append(f"the gradient of {names[-1]}{others}")
        if not found:
            found.append("a gradient (the device reports an overflow)")
        verb = "are" if len(found) > 1 else "is"
        floor = "" if self.scale is None else " although the loss scale is at its floor of 1"
        raise InputError(f"training: step {step}: {' and '.join(found)} {verb} not finite{floor}; {ADVICE}")


def check_parameters(parameters, step):
    """Raise InputError naming the first Parameter with a value that is not finite; the host sees each of them."""
    for parameter in parameters:
        if not np.isfinite(parameter.asnumpy()).all():
            raise InputError(f"training: step {step}: {parameter.name} is not finite; {ADVICE}")
