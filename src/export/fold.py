"""Folding of BatchNorm into the convolutions before it, for inference.

gamma (W x - mean) / sqrt(var + eps) + beta is a convolution again: W scaled per output channel, and a bias. A zero of W
stays a zero, so the sparsity is kept.
"""

import numpy as np
from mindspore import Tensor, nn


def fold_batch_norms(network, images):
    """Fold, in place, every BatchNorm that directly follows a convolution; returns how many were folded.

    images: a Tensor to run the network on once: which layer follows which is seen in the run, not read from names.
    """
    cells = dict(network.cells_and_names())
    pairs = _consecutive(cells, network, images)
    for convolution, norm in pairs:
        folded = _folded(cells[convolution], cells[norm])
        replace_cell(cells, convolution, folded)
        folded.weight.name, folded.bias.name = f"{convolution}.weight", f"{convolution}.bias"
        replace_cell(cells, norm, nn.Identity())
    return len(pairs)


def _consecutive(cells, network, images):
    """(convolution, BatchNorm) names where the one's output is the other's input."""
    outputs, inputs = [], []
    handles = []
    for name, cell in cells.items():
        if isinstance(cell, nn.Conv2d):
            handles.append(cell.register_forward_hook(lambda _, x, y, name=name: outputs.append((name, y))))
        elif isinstance(cell, nn.BatchNorm2d):
            handles.append(cell.register_forward_pre_hook(lambda _, x, name=name: inputs.append((name, x[0]))))
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    return [(conv, norm) for norm, x in inputs for conv, y in outputs if x is y]


def _folded(convolution, norm):
    gamma, beta, mean, variance = (
        parameter.asnumpy().astype(np.float64)
        for parameter in (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
    )
    scale = gamma / np.sqrt(variance + norm.eps)
    weight = convolution.weight.asnumpy() * scale.reshape(-1, 1, 1, 1) + 0.0  # + 0.0 makes -0.0 a plain zero again
    bias = beta - mean * scale
    if convolution.has_bias:
        bias += convolution.bias.asnumpy() * scale
    return nn.Conv2d(
        convolution.in_channels,
        convolution.out_channels,
        convolution.kernel_size,
        convolution.stride,
        convolution.pad_mode,
        convolution.padding,
        convolution.dilation,
        convolution.group,
        has_bias=True,
        weight_init=Tensor(weight.astype(np.float32)),
        bias_init=Tensor(bias.astype(np.float32)),
    )


def replace_cell(cells, name, cell):
    """Put a cell in the place of the one called `name` among `cells` (name -> cell) of a network."""
    parent, _, key = name.rpartition(".")
    parent = cells[parent]
    if isinstance(parent, (nn.SequentialCell, nn.CellList)):
        parent[int(key)] = cell
    else:
        setattr(parent, key, cell)
