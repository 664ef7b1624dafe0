"""What a MINDIR of unknown origin has to be before MindSpore's loader, which checks little of it, gets to see it."""

import inspect
import math
import re

from mindspore.ops.auto_generate import gen_ops_prim
from mindspore.train.mind_ir_pb2 import AttributeProto, TensorProto

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

# What keeps reads and writes of parameters in order is a state, no tensor; these primitives may read it.
_STATES = (AttributeProto.UMONAD, AttributeProto.IOMONAD)
_READERS_OF_STATES = ("Load", "UpdateState", "Depend")
_EFFECTS = ("side_effect_mem", "side_effect_io")  # with one of these attributes, another primitive reads one as well
_INPUTS = {"Conv2D": 2, "MaxPool": 1, "TupleGetItem": 2}  # not among MindSpore's definitions


def check_model(model):
    """Raise ValueError unless a ModelProto is one graph of known computations, each of what is there by then."""
    graph, primitives = model.graph, {primitive.name: primitive for primitive in model.primitives}
    if not graph.node:
        raise ValueError("it has no graph")
    if model.functions or graph.map_parameter:
        raise ValueError("it has graphs inside its graph")
    if len(primitives) < len(model.primitives):
        raise ValueError("two of its primitives have one name")
    for primitive in model.primitives:
        if _REFUSED.match(primitive.op_type):
            raise ValueError(f"its primitive {primitive.op_type} does more than compute")
        _check_attributes(primitive.attribute)
    for parameter in graph.parameter:
        _check_tensor(parameter)
        if len(parameter.raw_data) == 0 and math.prod(parameter.dims):
            raise ValueError(f"parameter {parameter.name:.100} has no values")
    values = _Values()
    for value in (*graph.input, *graph.parameter):
        values.add(value.name)
    for node in graph.node:
        _check_node(node, primitives, values)
    if not graph.output or not values.known.issuperset(output.name for output in graph.output):
        raise ValueError("its output is not there")


class _Values:
    """The names of the values that are there by now, and those of them that are states."""

    def __init__(self):
        self.known, self.states = set(), set()

    def add(self, name, state=False):
        if name in self.known or not name:
            raise ValueError(f"two of its values have the name {name!r:.100}")
        self.known.add(name)
        if state:
            self.states.add(name)


def _check_node(node, primitives, values):
    """Raise ValueError unless a node is a constant, or one of the primitives and reads what it may; add its outputs."""
    form, _, name = node.op_type.partition("::")
    if node.op_type != "Constant" and not (form == "REF" and name in primitives):
        raise ValueError(f"node {node.name:.100} is none of its primitives")
    primitive = primitives[name] if form == "REF" else None
    if primitive and not node.input:
        raise ValueError(f"node {node.name:.100} computes from nothing")
    if not values.known.issuperset(node.input):
        raise ValueError(f"node {node.name:.100} reads what is not there by then")
    if primitive and primitive.op_type not in _READERS_OF_STATES:
        _check_inputs(node, primitive, values.states)
    _check_attributes((*node.attribute, *node.node_attr, *node.primal_attr))
    state = primitive.op_type == "UpdateState" if primitive else any(each.type in _STATES for each in node.attribute)
    for output in node.output:
        values.add(output, state)


def _check_inputs(node, primitive, states):
    """Raise ValueError unless a node reads as many tensors as its primitive takes, and a state where it has effects."""
    tensors = [value for value in node.input if value not in states]
    effects = any(attribute.name in _EFFECTS for attribute in primitive.attribute)
    if len(tensors) + effects < len(node.input):
        raise ValueError(f"node {node.name:.100} computes with what is no tensor")
    if len(tensors) != _count_inputs(primitive, len(tensors)):
        raise ValueError(f"node {node.name:.100} has not as many inputs as {primitive.op_type:.100} takes")


def _count_inputs(primitive, otherwise):
    """How many inputs a primitive takes; `otherwise` where MindSpore's definitions of operators do not have it.

    Functions take as inputs what primitives before them had as attributes, the arguments of `__init__`. MindSpore fails
    on the older form of what has become one (-1): without its inputs, and under other names.
    """
    definition = getattr(gen_ops_prim, primitive.op_type, None)
    if not isinstance(definition, type):
        return _INPUTS.get(primitive.op_type, otherwise)
    before, given = (len(inspect.signature(each).parameters) - 1 for each in (definition.__init__, definition.__call__))
    if primitive.prim_type != primitive.PRIMITIVE_FUNCTION and before:
        return -1
    return before + given


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
