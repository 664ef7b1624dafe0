"""MINDIR and AIR: MindSpore's own formats."""

import math
import re
import shutil
import tempfile
from pathlib import Path

import mindspore as ms
import numpy as np
from google.protobuf.message import DecodeError
from mindspore import Tensor, nn
from mindspore.train.mind_ir_pb2 import AttributeProto, ModelProto, TensorProto

from ..platform.errors import InputError
from ..platform.files import GIB, read_regular
from .files import is_utf8, new_file
from .report import Exported, check_dense, check_outputs, count_zeros

_LARGEST_FILE = 2 * GIB  # protobuf's limit
_MOST_LEVELS = 20  # of attributes in attributes
_BYTES = {  # of a number, by its type
    **dict.fromkeys((TensorProto.UINT8, TensorProto.INT8, TensorProto.BOOL), 1),
    **dict.fromkeys((TensorProto.UINT16, TensorProto.INT16, TensorProto.FLOAT16, TensorProto.BFLOAT16), 2),
    **dict.fromkeys((TensorProto.FLOAT, TensorProto.INT32, TensorProto.UINT32), 4),
    **dict.fromkeys((TensorProto.DOUBLE, TensorProto.FLOAT64, TensorProto.INT64, TensorProto.UINT64), 8),
}
# Of attributes: graphs, functions, and tensors that no network here has.
_REFUSED_KINDS = {
    kind
    for name, kind in AttributeProto.AttributeType.items()
    if name in ("GRAPH", "FUNCTOR", "SCALAR_GRAPH_HOLDER") or name.endswith(("CLOSURE", "_TENSOR"))
}
# Primitives that run code of the file or beside it, write or read files, or talk to other processes.
_REFUSED = re.compile(
    "Py|Custom|HostCom|Rpc|All(Gather|Reduce)|.*(Dump|Summary|Print|Dataset|Queue|File|Send|Recv|Receive)"
)


def export_mindir(deployment, path):
    """Write a MINDIR of a Deployment with its Interface inside, reload it through GraphCell and compare.

    Returns an Exported. Raises RuntimeError if the reloaded file does not give the same outputs or has other zeros.
    """

    def add_metadata(model):
        put_metadata(model.user_info, deployment.interface.to_metadata())

    with new_file(path) as written:
        ms.export(
            deployment.network,
            deployment.interface.signature(),
            file_name=str(written.with_suffix("")),
            file_format="MINDIR",
            custom_func=add_metadata,
        )
        written.with_suffix(".mindir").replace(written)
        reloaded = load_graph(written)
        outputs = reloaded(Tensor(deployment.images)).asnumpy()
        deviation = check_outputs(path, deployment.outputs, outputs, deployment.tolerance)
        stored = stored_weights(written)
        zeros, count = count_zeros(path, stored, deployment.weights)
        check_dense(path, stored, deployment.dense)
        size = written.stat().st_size
    return Exported(path, size, deviation, zeros, count)


def load_graph(path):
    """The Cell of a MINDIR file. Raises OSError, or what MindSpore raises for a file that it does not take."""
    if not is_utf8(path):  # MindSpore takes no such name; a copy has another
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "copy.mindir"
            shutil.copyfile(path, copy)
            return nn.GraphCell(ms.load(str(copy)))
    return nn.GraphCell(ms.load(str(path)))


def read_model(path, where):
    """The ModelProto of a MINDIR file of unknown origin, as far as can be seen fit for `load_graph`.

    It is one graph of computations with its weights inside, each node after those that it reads from: MindSpore itself
    does not check that. Raises InputError that begins with `where`.
    """
    model = ModelProto()
    try:
        model.ParseFromString(read_regular(path, f"{where}: cannot be read", _LARGEST_FILE))
        _check(model)
    except (DecodeError, ValueError) as error:
        reason = "" if isinstance(error, (DecodeError, UnicodeError)) else f": {error}"
        raise InputError(f"{where} is not a MINDIR file, or a damaged one{reason}") from None
    return model


def read_metadata(path):
    """The metadata of a MINDIR file, text by key."""
    return get_metadata(read_model(path, str(path)).user_info)


def _check(model):
    """Raise ValueError unless a ModelProto is one graph of known computations, each of what is there by then."""
    graph, primitives = model.graph, {primitive.name: primitive.op_type for primitive in model.primitives}
    if not graph.node:
        raise ValueError("it has no graph")
    if model.functions or graph.map_parameter:
        raise ValueError("it has graphs inside its graph")
    if len(primitives) < len(model.primitives):
        raise ValueError("two of its primitives have one name")
    refused = next(filter(_REFUSED.match, primitives.values()), None)
    if refused:
        raise ValueError(f"its primitive {refused} does more than compute")
    known = set()
    for value in (*graph.input, *graph.parameter):
        _add(known, value.name)
    for parameter in graph.parameter:
        _check_tensor(parameter)
        if len(parameter.raw_data) == 0 and math.prod(parameter.dims):
            raise ValueError(f"parameter {parameter.name:.100} has no values")
    for node in graph.node:
        kind, _, name = node.op_type.partition("::")
        if node.op_type != "Constant" and not (kind == "REF" and name in primitives):
            raise ValueError(f"node {node.name:.100} is none of its primitives")
        if kind == "REF" and not node.input:
            raise ValueError(f"node {node.name:.100} computes from nothing")
        if not known.issuperset(node.input):
            raise ValueError(f"node {node.name:.100} reads what is not there by then")
        _check_attributes((*node.attribute, *node.node_attr, *node.primal_attr))
        for output in node.output:
            _add(known, output)
    for primitive in model.primitives:
        _check_attributes(primitive.attribute)
    if not graph.output or not known.issuperset(output.name for output in graph.output):
        raise ValueError("its output is not there")


def _add(known, name):
    if name in known or not name:
        raise ValueError(f"two of its values have the name {name!r:.100}")
    known.add(name)


def _check_attributes(attributes, levels=_MOST_LEVELS):
    """Raise ValueError for an attribute that is a graph, a call, or a tensor that is not as large as it says."""
    if not levels:
        raise ValueError("its attributes are nested too deeply")
    for attribute in attributes:
        if attribute.HasField("g") or attribute.graphs or attribute.HasField("functor"):
            raise ValueError("it has graphs inside its graph")
        if attribute.type in _REFUSED_KINDS or (attribute.type == AttributeProto.TENSORS and not attribute.tensors):
            raise ValueError(f"its attribute {attribute.name:.100} is not what it says")
        for tensor in (*([attribute.t] if attribute.HasField("t") else ()), *attribute.tensors):
            _check_tensor(tensor)
        _check_attributes(attribute.values, levels - 1)


def _check_tensor(tensor):
    """Raise ValueError for a tensor whose values, if it has any, are elsewhere or of another size."""
    if tensor.HasField("external_data") or tensor.compression_type:
        raise ValueError("it has values in other files, or compressed ones")
    if tensor.raw_data and len(tensor.raw_data) != math.prod(tensor.dims) * _BYTES.get(tensor.data_type, math.nan):
        raise ValueError(f"tensor {tensor.name:.100} does not match its declared type and shape")


def put_metadata(field, metadata):
    """Put texts by key into a metadata field of a protobuf message: a map, or a list of entries.

    MindSpore before 2.10 declares its map such that protobuf after 4.21 takes it for a list; files have the same bytes.
    """
    for key, value in metadata.items():
        if hasattr(field, "add"):
            field.add(key=key, value=value)
        else:
            field[key] = value


def get_metadata(field):
    """The texts by key of such a field."""
    return {entry.key: entry.value for entry in field} if hasattr(field, "add") else dict(field)


def export_air(deployment, path):
    """Write an AIR file, which only an Ascend backend can do; it cannot be reloaded for a comparison.

    Raises InputError where there is no Ascend backend, or the batch is not fixed.
    """
    if not ms.hal.is_available("Ascend"):
        raise InputError(
            "file_format: AIR needs MindSpore's Ascend backend, which is not present here; "
            "export a MINDIR and convert it on the Ascend host (docs/edge.md)"
        )
    if deployment.interface.batch_size is None:
        raise InputError("dynamic_batch: AIR takes a fixed batch; give --batch_size")
    with new_file(path) as written:
        signature = deployment.interface.signature()
        ms.export(deployment.network, signature, file_name=str(written.with_suffix("")), file_format="AIR")
        written.with_suffix(".air").replace(written)
        size = written.stat().st_size
    return Exported(path, size, None, None, None)


def stored_weights(path):
    """Float32 arrays of a MINDIR file, by the parameter's name (the file puts the graph's name before it)."""
    arrays = {}
    for parameter in read_model(path, str(path)).graph.parameter:
        if len(parameter.raw_data) == 4 * np.prod(parameter.dims):
            array = np.frombuffer(parameter.raw_data, np.float32).reshape(tuple(parameter.dims))
            arrays[parameter.name.rpartition(":")[2]] = array
    return arrays
