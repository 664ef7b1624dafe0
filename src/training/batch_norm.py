"""BatchNorm over the images of all workers, so that their number does not change what is normalised by."""

from mindspore import nn, ops


class SyncBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose statistics in training are those of a step's whole batch; all workers have the same images.

    Input and output (N, C, H, W). One message of 2 C numbers per layer each way: the means of x - m and (x - m)^2,
    taken relative to the moving mean m so that their difference is exact enough where |mean| is far above the
    deviation. In the backward pass the gradient of these means is summed over workers too, as `ops.AllReduce` does: the
    mean over workers of the parameters' gradients, taken afterwards, is then that of the mean loss.
    """

    def construct(self, x):
        """Normalised x, in its own type."""
        if not self.training:
            return self.bn_infer(x, self.gamma, self.beta, self.moving_mean, self.moving_variance)[0]
        centre = self.moving_mean.reshape((1, -1, 1, 1))
        values = x.astype(self.gamma.dtype) - centre
        local = ops.concat((values.mean((0, 2, 3)), ops.square(values).mean((0, 2, 3))))
        mean, square = ops.chunk(self.all_reduce(local) / self.workers, 2)
        variance = ops.relu(square - ops.square(mean))  # not below zero, where rounding would put it

        count = self.workers * x.shape[0] * x.shape[2] * x.shape[3]
        unbiased = ops.stop_gradient(variance) * (count / max(count - 1, 1))
        shift = self.momentum * ops.stop_gradient(mean)  # here momentum is the share of the new value
        drift = self.momentum * (unbiased - self.moving_variance)
        scale = self.gamma * ops.rsqrt(variance + self.eps)
        offset = self.beta - mean * scale
        y = values * scale.reshape((1, -1, 1, 1)) + offset.reshape((1, -1, 1, 1))
        y = ops.depend(y, ops.assign_add(self.moving_mean, shift))
        return ops.depend(y, ops.assign_add(self.moving_variance, drift)).astype(x.dtype)


def synchronise(network, workers):
    """Make every BatchNorm2d of a network a SyncBatchNorm2d, in place; nothing to do for a single process.

    The cells change their class and nothing else, so that Parameters, names and containers stay as they are.
    """
    if workers.size == 1:
        return
    for _, cell in network.cells_and_names():
        if type(cell) is nn.BatchNorm2d:
            cell.__class__ = SyncBatchNorm2d
            cell.workers = workers.size
            cell.all_reduce = workers.all_reduce
