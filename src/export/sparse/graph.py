"""From an ONNX file to the graph of a .sparse file.

onnxruntime's basic optimisation comes first: it computes what is constant and folds BatchNorm into convolutions. What
follows a convolution then moves into it: a sum with another tensor, and the activation.
"""

import tempfile
from pathlib import Path

import numpy as np
import onnx

from ...platform.errors import InputError
from ..onnx_file import open_model, read_model
from .file import Axis, Graph, Operation, output_shape

_PLAIN = ("Identity", "Dropout", "Cast")
_MOVING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split")


def read_onnx(path):
    """The Graph of an ONNX file of one image input and one output of numbers per class, without an Interface.

    Raises InputError, which names the file and, where one cannot be converted, the operator.
    """
    model = _optimised(Path(path))
    try:
        return _Converter(model).graph()
    except (ValueError, KeyError, IndexError, StopIteration) as error:
        raise InputError(f"{path}: cannot be converted: {error}") from None


def _optimised(path):
    """The model for one image, as onnxruntime writes it after its basic optimisation."""
    where = str(path)
    model = read_model(path, where)
    weights = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        dimensions = value.type.tensor_type.shape.dim
        if value.name not in weights and dimensions and dimensions[0].dim_value < 1:
            dimensions[0].dim_value = 1
    del model.graph.value_info[:]
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        open_model(model, where, optimised_path=optimised)
        return onnx.load(str(optimised))


def _moved(kind, places, attributes, values, outputs):
    """An array after an operator of `_MOVING`, a list. values: of its constant inputs, None where there is none."""

    def given(name, at, default=None):
        if name in attributes:
            return list(attributes[name])
        return default if len(values) <= at or values[at] is None else values[at].tolist()

    if kind == "Reshape":
        target = values[0].tolist()
        return [places.reshape([size or places.shape[axis] for axis, size in enumerate(target)])]
    if kind == "Flatten":
        return [places.reshape(int(np.prod(places.shape[: attributes.get("axis", 1)])), -1)]
    if kind == "Squeeze":
        axes = given("axes", 0)
        return [np.squeeze(places, None if axes is None else tuple(axes))]
    if kind == "Unsqueeze":
        return [np.expand_dims(places, tuple(given("axes", 0)))]
    if kind == "Transpose":
        return [places.transpose(attributes.get("perm"))]
    if kind == "Slice":
        starts, ends = given("starts", 0), given("ends", 1)
        axes, steps = given("axes", 2, range(len(starts))), given("steps", 3, [1] * len(starts))
        slices = [slice(None)] * places.ndim
        for axis, *bounds in zip(axes, starts, ends, steps):
            if bounds[2] < 0:
                raise ValueError("steps backwards are not known")
            slices[axis] = slice(*bounds)
        return [places[tuple(slices)]]
    axis = attributes.get("axis", 0)  # Split
    sizes = given("split", 0)
    if sizes is None:
        size = -(-places.shape[axis] // outputs)
        sizes = [size] * outputs
    return np.split(places, np.cumsum(sizes)[:-1], axis)


class _Converter:
    """Operations appended one after the other; `tensors`: index of a tensor by its ONNX name."""

    def __init__(self, model):
        self.model = model.graph
        self.constants = {t.name: onnx.numpy_helper.to_array(t) for t in self.model.initializer}
        inputs = [value for value in self.model.input if value.name not in self.constants]
        if len(inputs) != 1:
            raise ValueError(f"{len(inputs)} inputs; one is needed, an image")
        shape = [dimension.dim_value for dimension in inputs[0].type.tensor_type.shape.dim]
        if len(shape) == 2:
            shape += [1, 1]
        if len(shape) != 4 or shape[0] != 1 or min(shape) < 1:
            raise ValueError(f"an input of shape {shape}; a batch of channels, height and width is needed")
        self.shapes = [tuple(shape[1:])]
        self.tensors = {inputs[0].name: 0}
        self.operations = []
        self.moved = {}  # name of the tensor whose numbers a tensor has, and the place in it of every one of them
        self.pads = {}  # zeros that a Pad has put around a tensor, by the name of its output
        self.readers = {}
        for node in self.model.node:
            for name in node.input:
                self.readers[name] = self.readers.get(name, 0) + 1
        for value in self.model.output:
            self.readers[value.name] = self.readers.get(value.name, 0) + 1

    def graph(self):
        for node in self.model.node:
            if node.op_type == "Constant":
                self.constants[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
                continue
            method = getattr(self, f"_{node.op_type.lower()}", None)
            if node.op_type in _PLAIN:
                method = self._plain
            if node.op_type in _MOVING:
                method = self._move
            if node.domain not in ("", "ai.onnx") or method is None:
                raise ValueError(f"operator {node.op_type} is not known to the sparse runtime")
            attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
            try:
                method(node, attributes)
            except ValueError as error:
                raise ValueError(f"operator {node.op_type} ({node.name or node.output[0]}): {error}") from None
        if len(self.model.output) != 1:
            raise ValueError(f"{len(self.model.output)} outputs; one is needed")
        output = self._tensor(self.model.output[0].name)
        if self.shapes[output][1:] != (1, 1):
            raise ValueError(f"an output of shape {self.shapes[output]}; numbers per class are needed")
        if output != len(self.operations) or not self.operations:
            self._append(self.model.output[0].name, Operation("activation", (output,)))
        return Graph(self.shapes[0], self.operations)

    # Tensors

    def _append(self, name, operation):
        self.shapes.append(output_shape(operation, [self.shapes[index] for index in operation.inputs]))
        self.operations.append(operation)
        self.tensors[name] = len(self.operations)

    def _tensor(self, name):
        if name in self.pads:
            raise ValueError("a Pad is possible only before a convolution or a pooling")
        if name in self.moved and name not in self.tensors:
            self._select(name)
        if name not in self.tensors:
            raise ValueError(f"input {name} is a constant")
        return self.tensors[name]

    def _owner(self, name):
        """The operation that gives a tensor, if nothing else reads it and more can move into it, else None."""
        index = self.tensors.get(name, 0)
        if not index or self.readers.get(name) != 1 or list(self.tensors.values()).count(index) != 1:
            return None
        operation = self.operations[index - 1]
        return operation if operation.activation == "none" else None

    def _replace(self, old, new, **changes):
        """Change the operation that gives `old`; from now on the result is called `new`."""
        index = self.tensors.pop(old)
        self.operations[index - 1] = self.operations[index - 1]._replace(**changes)
        self.tensors[new] = index

    def _activate(self, node, activation, low=0.0, high=0.0):
        name, result = node.input[0], node.output[0]
        owner = self._owner(name)
        if owner and owner.kind != "softmax":
            self._replace(name, result, activation=activation, low=low, high=high)
        else:
            self._append(result, Operation("activation", (self._tensor(name),), activation, low, high))

    # Operators

    def _conv(self, node, attributes):
        weight = self._constant(node.input[1])
        bias = self._constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if weight.ndim != 4:
            raise ValueError(f"a kernel of {weight.ndim - 2} dimensions")
        source, pads = self._padded(node.input[0])
        window = self._window(attributes, weight.shape[2:], source, pads)
        operation = Operation(
            "convolution", (source,), window=window, groups=attributes.get("group", 1), weight=weight, bias=bias
        )
        self._append(node.output[0], operation)

    def _gemm(self, node, attributes):
        if attributes.get("transA") or attributes.get("alpha", 1) != 1 or attributes.get("beta", 1) != 1:
            raise ValueError("transA, alpha and beta are not known")
        weight = self._constant(node.input[1])
        bias = self._constant(node.input[2]).reshape(-1) if len(node.input) > 2 else None
        self._connect(node, weight if attributes.get("transB") else weight.T, bias)

    def _matmul(self, node, attributes):
        self._connect(node, self._constant(node.input[1]).T, None)

    def _connect(self, node, weight, bias):
        """A fully connected layer, as a convolution that sees its whole input at once."""
        source = self._tensor(node.input[0])
        channels, height, width = self.shapes[source]
        if weight.ndim != 2 or weight.shape[1] != channels * height * width:
            raise ValueError(f"weights of shape {weight.shape} on a tensor of shape {self.shapes[source]}")
        weight = np.ascontiguousarray(weight).reshape(-1, channels, height, width)
        if bias is not None:
            bias = np.broadcast_to(bias, len(weight))
        window = (Axis(height), Axis(width))
        self._append(node.output[0], Operation("convolution", (source,), window=window, weight=weight, bias=bias))

    def _batchnormalization(self, node, attributes):
        gamma, beta, mean, variance = (self._constant(name).astype(np.float64) for name in node.input[1:5])
        scale = gamma / np.sqrt(variance + attributes.get("epsilon", 1e-5))
        self._affine(node.input[0], node.output[0], scale, beta - mean * scale)

    def _affine(self, name, result, scale, shift):
        """scale * x + shift per channel: moved into a convolution before it, or one of its own."""
        source = self._tensor(name)
        channels = self.shapes[source][0]
        scale, shift = (np.broadcast_to(np.asarray(v, np.float64).reshape(-1), channels) for v in (scale, shift))
        owner = self._owner(name)
        if owner and owner.kind == "convolution" and len(owner.inputs) == 1:
            bias = 0 if owner.bias is None else owner.bias
            weight = (owner.weight * scale.reshape(-1, 1, 1, 1)).astype(np.float32)
            self._replace(name, result, weight=weight, bias=(bias * scale + shift).astype(np.float32))
            return
        weight = scale.reshape(-1, 1, 1, 1).astype(np.float32)
        fields = {"window": (Axis(1), Axis(1)), "groups": channels, "weight": weight, "bias": np.float32(shift)}
        self._append(result, Operation("convolution", (source,), **fields))

    def _add(self, node, attributes):
        left, right = node.input
        if self._joined(node, 1, lambda value: (1, value)):
            return
        for name, other in ((left, right), (right, left)):
            owner = self._owner(name)
            same = owner and self.shapes[self._tensor(name)] == self.shapes[self._tensor(other)]
            if same and owner.kind == "convolution" and len(owner.inputs) == 1 and self._last(name, other):
                self._replace(name, node.output[0], inputs=(*owner.inputs, self._tensor(other)))
                return
        self._pair("add", node)

    def _last(self, name, other):
        """Whether the operation that gives `name` may read `other`: it comes earlier, or can be moved behind it."""
        index, source = self._tensor(name), self._tensor(other)
        if source > index:  # nothing between them reads it: the operation moves to the end
            self._move_to_end(index)
        return True

    def _move_to_end(self, index):
        """Make operation `index` the last one; the numbers of those behind it fall by one."""
        last = len(self.operations)
        order = [*range(index), *range(index + 1, last + 1), index]
        place = {old: new for new, old in enumerate(order)}
        self.operations.append(self.operations.pop(index - 1))
        self.shapes.append(self.shapes.pop(index))
        self.operations = [op._replace(inputs=tuple(place[i] for i in op.inputs)) for op in self.operations]
        self.tensors = {name: place[i] for name, i in self.tensors.items()}

    def _sub(self, node, attributes):
        if not self._joined(node, 1, lambda value: (1, -value), ordered=True):
            raise ValueError("only a constant can be subtracted")

    def _mul(self, node, attributes):
        if self._joined(node, 1, lambda value: (value, 0)):
            return
        left, right = node.input
        for name, other in ((left, right), (right, left)):  # x * sigmoid(x)
            index = self.tensors.get(name, 0)
            gate = self.operations[index - 1] if index else None
            gated = gate and gate.kind == "activation" and gate.inputs == (self.tensors.get(other),)
            names = {"sigmoid": "swish", "hard_sigmoid": "hard_swish"}
            if gated and self.readers[name] == 1 and gate.activation in names:
                if gate.activation == "hard_sigmoid" and not np.allclose((gate.low, gate.high), (1 / 6, 0.5)):
                    continue
                self._replace(name, node.output[0], activation=names[gate.activation], low=0.0, high=0.0)
                return
        self._pair("multiply", node)

    def _div(self, node, attributes):
        if not self._joined(node, 1, lambda value: (1 / value, 0), ordered=True):
            raise ValueError("only division by a constant is known")

    def _joined(self, node, rank, scale_and_shift, ordered=False):
        """Handle a constant operand per channel; False where both operands are computed."""
        for name, other in ((node.input[0], node.input[1]), (node.input[1], node.input[0])):
            if other in self.constants and name not in self.constants:
                if ordered and name != node.input[0]:
                    raise ValueError("the first operand is a constant")
                value = self._constant(other).astype(np.float64)
                channels = self.shapes[self._tensor(name)][0]
                flat = self.shapes[self._tensor(name)][1:] == (1, 1)
                shape = value.shape if value.ndim in (0, 4) or flat else (1,) * (4 - value.ndim) + value.shape
                per_channel = value.size == channels and (flat or shape == (1, channels, 1, 1))
                if value.size != 1 and not per_channel:
                    raise ValueError(f"a constant of shape {value.shape}; one number per channel is needed")
                self._affine(name, node.output[0], *scale_and_shift(value))
                return True
        return False

    def _pair(self, kind, node):
        inputs = tuple(self._tensor(name) for name in node.input)
        if self.shapes[inputs[0]][1:] == (1, 1) and self.shapes[inputs[1]][1:] != (1, 1):
            inputs = inputs[::-1]
        first, second = (self.shapes[index] for index in inputs)
        if second not in (first, (first[0], 1, 1)):
            raise ValueError(f"tensors of shapes {first} and {second}")
        self._append(node.output[0], Operation(kind, inputs))

    def _concat(self, node, attributes):
        if attributes["axis"] not in (1, -3):
            raise ValueError(f"axis {attributes['axis']}; only channels can be joined")
        inputs = tuple(self._tensor(name) for name in node.input)
        if len({self.shapes[index][1:] for index in inputs}) != 1:
            raise ValueError("maps of different sizes")
        self._append(node.output[0], Operation("concatenate", inputs))

    def _relu(self, node, attributes):
        self._activate(node, "relu")

    def _clip(self, node, attributes):
        bounds = [attributes.get("min", -np.inf), attributes.get("max", np.inf)]
        for place, name in enumerate(node.input[1:3]):
            if name:
                bounds[place] = self._constant(name).item()
        limit = float(np.finfo(np.float32).max)
        self._activate(node, "clip", *(float(np.clip(bound, -limit, limit)) for bound in bounds))

    def _hardsigmoid(self, node, attributes):
        self._gate(node, "hard_sigmoid", attributes.get("alpha", 0.2), attributes.get("beta", 0.5))

    def _hardswish(self, node, attributes):
        self._activate(node, "hard_swish")

    def _sigmoid(self, node, attributes):
        self._gate(node, "sigmoid")

    def _gate(self, node, *activation):
        """An activation; of its own where its input is read again, so that a product with it can be recognised."""
        self._activate(node, *activation)

    def _softmax(self, node, attributes):
        source = self._tensor(node.input[0])
        if self.shapes[source][1:] != (1, 1):
            raise ValueError("only over the classes of the output")
        self._append(node.output[0], Operation("softmax", (source,)))

    def _plain(self, node, attributes):
        """What changes nothing."""
        if node.op_type == "Cast" and attributes["to"] != onnx.TensorProto.FLOAT:
            raise ValueError("only float32 is known")
        self.tensors[node.output[0]] = self._tensor(node.input[0])
        if node.input[0] in self.moved:
            self.moved[node.output[0]] = self.moved[node.input[0]]

    def _move(self, node, attributes):
        """What gives each number another place: it is done with the places themselves.

        Channel shuffles and splits take several such operators; only what they come to is looked at.
        """
        name = node.input[0]
        if name not in self.moved:
            shape = (1, *self.shapes[self._tensor(name)])
            self.moved[name] = (name, np.arange(np.prod(shape)).reshape(shape))
        source, places = self.moved[name]
        values = [self._constant(other) if other else None for other in node.input[1:]]
        for result, moved in zip(node.output, _moved(node.op_type, places, attributes, values, len(node.output))):
            self.moved[result] = (source, moved)
            if np.array_equal(moved.reshape(-1), np.arange(np.prod(self.shapes[self._tensor(source)]))):
                self.tensors[result] = self._tensor(source)

    def _select(self, name):
        """Pick channels, by a convolution of ones."""
        source, places = self.moved[name]
        index = self._tensor(source)
        channels, height, width = self.shapes[index]
        size = height * width
        picked = places.reshape(-1)[::size] // size
        if not np.array_equal((picked[:, None] * size + np.arange(size)).reshape(-1), places.reshape(-1)):
            raise ValueError(f"its input {name} is not made of whole channels of {source} (Reshape, Transpose, Slice)")
        weight = np.eye(channels, dtype=np.float32)[picked]
        fields = {"window": (Axis(1), Axis(1)), "weight": weight[:, :, None, None], "selects": True}
        self._append(name, Operation("convolution", (index,), **fields))

    def _pad(self, node, attributes):
        pads = attributes.get("pads") or self._constant(node.input[1]).tolist()
        value = attributes.get("value", 0.0)
        if len(node.input) > 2 and node.input[2]:
            value = self._constant(node.input[2]).item()
        if attributes.get("mode", b"constant") != b"constant" or value or min(pads) < 0 or any(pads[:2] + pads[4:6]):
            raise ValueError("only zeros around the maps are known")
        self._tensor(node.input[0])
        self.pads[node.output[0]] = (node.input[0], (pads[2], pads[6]), (pads[3], pads[7]))

    def _maxpool(self, node, attributes):
        source, pads = self._padded(node.input[0])
        if pads and any(attributes.get("pads", ())):
            raise ValueError("padding of its own behind a Pad")
        if any(d != 1 for d in attributes.get("dilations", ())):
            raise ValueError("dilation is not known")
        window = self._window(attributes, attributes["kernel_shape"], source, pads)
        self._append(node.output[0], Operation("max_pool", (source,), window=window, pad_counts=bool(pads)))

    def _averagepool(self, node, attributes):
        source, pads = self._padded(node.input[0])
        if pads and any(attributes.get("pads", ())):
            raise ValueError("padding of its own behind a Pad")
        counts = bool(pads) or bool(attributes.get("count_include_pad"))
        if counts and attributes.get("ceil_mode"):
            raise ValueError("ceil_mode with counted padding is not known")
        window = self._window(attributes, attributes["kernel_shape"], source, pads)
        self._append(node.output[0], Operation("average_pool", (source,), window=window, pad_counts=counts))

    def _globalaveragepool(self, node, attributes):
        self._pool_all("average_pool", node)

    def _globalmaxpool(self, node, attributes):
        self._pool_all("max_pool", node)

    def _reducemean(self, node, attributes):
        axes = attributes.get("axes") or self._constant(node.input[1]).tolist()
        if sorted(axis % 4 for axis in axes) != [2, 3]:
            raise ValueError("only over height and width")
        self._pool_all("average_pool", node)

    def _pool_all(self, kind, node):
        source = self._tensor(node.input[0])
        window = tuple(Axis(length) for length in self.shapes[source][1:])
        self._append(node.output[0], Operation(kind, (source,), window=window))

    # Parts of operators

    def _constant(self, name):
        if name not in self.constants:
            raise ValueError(f"{name} has to be a constant")
        return self.constants[name]

    def _padded(self, name):
        """(tensor, zeros around it) behind a Pad, or (tensor, None)."""
        if name in self.pads:
            source, *pads = self.pads[name]
            return self._tensor(source), pads
        return self._tensor(name), None

    def _window(self, attributes, kernel, source, pads):
        strides = attributes.get("strides") or [1, 1]
        dilations = attributes.get("dilations") or [1, 1]
        own = attributes.get("pads") or [0, 0, 0, 0]
        mode = attributes.get("auto_pad", b"NOTSET").decode()
        axes = []
        for axis, length in enumerate(self.shapes[source][1:]):
            before, behind = own[axis], own[axis + 2]
            span = (kernel[axis] - 1) * dilations[axis] + 1
            if mode.startswith("SAME"):
                missing = max((-(-length // strides[axis]) - 1) * strides[axis] + span - length, 0)
                before, behind = missing // 2, missing - missing // 2
                if mode == "SAME_LOWER":
                    before, behind = behind, before
            if pads:
                before, behind = before + pads[axis][0], behind + pads[axis][1]
            if attributes.get("ceil_mode"):
                rest = (length + before + behind - span) % strides[axis]
                last = length + before + behind - span - rest + strides[axis]
                if rest and last < length + before:  # ONNX drops windows that begin in the padding behind
                    behind += strides[axis] - rest
            if max(kernel[axis], strides[axis], before, behind, dilations[axis]) > 255:
                raise ValueError("a window of more than 255")
            axes.append(Axis(kernel[axis], strides[axis], before, behind, dilations[axis]))
        return tuple(axes)
