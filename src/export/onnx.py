"""ONNX, written by MindSpore's exporter and checked with onnxruntime."""

import re

import mindspore as ms
import onnx
from mindspore import nn, ops

from ..platform.errors import InputError
from .files import new_file
from .fold import replace_cell
from .onnx_file import open_onnx
from .report import Exported, check_dense, check_outputs, count_zeros


def export_onnx(deployment, path):
    """Write an ONNX file of a Deployment with its Interface inside, run it with onnxruntime and compare.

    MindSpore converts a Cell to ONNX only once. Returns an Exported.
    Raises RuntimeError if the written file does not give the same outputs or has other zeros.
    """
    interface = deployment.interface
    room = 3 * sum(array.nbytes for array in (*deployment.weights.values(), *deployment.dense.values()))
    with new_file(path, room) as written:  # on a full disk, MindSpore writes nothing, and only logs that
        raw = written.with_name("raw.onnx")
        write_raw(deployment.network, interface, raw)
        model = onnx.load(str(raw))
        mend_transposed(model)
        if interface.batch_size is None:
            _name_batch(model)
        onnx.helper.set_model_props(model, interface.to_metadata())
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, str(written))
        session = open_onnx(written)
        outputs = session.run(None, {session.get_inputs()[0].name: deployment.images})[0]
        deviation = check_outputs(path, deployment.outputs, outputs, deployment.rounding)
        stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        zeros, count = count_zeros(path, stored, deployment.weights)
        check_dense(path, stored, deployment.dense)
        size = written.stat().st_size
    return Exported(path, size, deviation, zeros, count)


def write_raw(network, interface, raw):
    """Have MindSpore write an ONNX file of a network, in which cells are replaced for it.

    Raises InputError where MindSpore's exporter does not know an operation, or not for a free batch.
    """
    stands_in = _replace_unknown(network)
    try:
        ms.onnx.export(network, interface.signature(), file_name=str(raw), input_names=["images"])
    except RuntimeError as error:
        if "not yet supported" not in str(error) and "is dynamic, not supported" not in str(error):
            raise
        unknown = re.search(r"Exporting (\w+) operator", str(error))
        what = f"the operation {unknown[1]}" if unknown else "this network for a free batch"
        raise InputError(
            f"file_format: MindSpore's ONNX exporter does not know {what}; "
            f"export MINDIR{'' if unknown else ', or a batch of fixed size'} instead"
        ) from None
    if stands_in:
        _mend_erf(raw)


class _HardSigmoid(nn.Cell):
    """relu6(x + 3) / 6 (Howard et al., 2019), in operations that MindSpore's exporter knows."""

    def construct(self, x):
        return ops.relu6(x + 3.0) * (1 / 6)


class _HardSwish(_HardSigmoid):
    """x relu6(x + 3) / 6."""

    def construct(self, x):
        return x * (ops.relu6(x + 3.0) * (1 / 6))


class _ErrorGELU(nn.Cell):
    """GELU by the error function, which the exporter does not know: Softsign stands in for it; see `_mend_erf`."""

    def __init__(self):
        super().__init__()
        self.stand_in = ops.Softsign()

    def construct(self, x):
        return x * (self.stand_in(x * 0.5**0.5) + 1.0) * 0.5


def _replace_unknown(network):
    """Put cells of known operations in the place of activations that MindSpore's exporter does not know.

    Returns whether one of them is a stand-in that has to be mended in the file.
    """
    stands_in = False
    cells = dict(network.cells_and_names())
    for name, cell in cells.items():
        if isinstance(cell, (nn.HSwish, nn.HSigmoid)):
            replace_cell(cells, name, _HardSwish() if isinstance(cell, nn.HSwish) else _HardSigmoid())
        elif isinstance(cell, nn.GELU) and cell.approximate == "none":
            replace_cell(cells, name, _ErrorGELU())
            stands_in = True
    return stands_in


def _mend_erf(raw):
    """Turn the stand-in into the error function. No network here has a Softsign of its own; the comparison of outputs
    would tell.
    """
    model = onnx.load(str(raw))
    for node in model.graph.node:
        if node.op_type == "Softsign":
            node.op_type = "Erf"
    onnx.save(model, str(raw))


def mend_transposed(model):
    """Of transposed convolutions MindSpore writes the whole output shape, where ONNX has height and width alone, and
    its padding `same` on the wrong side.
    """
    for node in model.graph.node:
        if node.op_type == "ConvTranspose":
            for attribute in node.attribute:
                if attribute.name == "output_shape":
                    del attribute.ints[:-2]
                if attribute.name == "auto_pad" and attribute.s == b"SAME_LOWER":
                    attribute.s = b"SAME_UPPER"


def _name_batch(model):
    """MindSpore writes a free dimension as -1, which ONNX does not know; ONNX gives it a name."""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_value < 0:
                dimension.dim_param = "batch"
