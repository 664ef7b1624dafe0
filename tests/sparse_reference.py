"""A graph of src/export/sparse/file.py in plain numpy: slow, and independent of the runtime."""

import itertools

import numpy as np

from src.export.sparse.file import Axis, Graph, Operation, output_shape, shapes_of


def run(graph, image):
    """The output (numbers,) of one image (channels, height, width), in float64."""
    tensors = [image.astype(np.float64)]
    for operation in graph.operations:
        result = compute(operation, [tensors[index] for index in operation.inputs])
        tensors.append(activate(operation, result))
    return tensors[-1].reshape(-1)


def compute(operation, inputs):
    x = inputs[0]
    if operation.kind == "convolution":
        result = convolve(operation, x)
        return result + inputs[1] if len(inputs) > 1 else result
    if operation.kind in ("max_pool", "average_pool"):
        return pool(operation, x)
    if operation.kind == "add":
        return x + inputs[1]
    if operation.kind == "multiply":
        return x * inputs[1]
    if operation.kind == "concatenate":
        return np.concatenate(inputs)
    if operation.kind == "softmax":
        return np.exp(x - x.max()) / np.exp(x - x.max()).sum()
    return x


def convolve(operation, x):
    rows, columns = operation.window
    weight = operation.weight.astype(np.float64)
    outputs, per_group = weight.shape[:2]
    x = np.pad(x, ((0, 0), (rows.before, rows.behind), (columns.before, columns.behind)))
    places = [(n - (a.kernel - 1) * a.dilation - 1) // a.stride + 1 for n, a in zip(x.shape[1:], operation.window)]
    result = np.zeros((outputs, *places))
    for output in range(outputs):
        first = output // (outputs // operation.groups) * per_group
        for y, z in itertools.product(*map(range, places)):
            top, left = y * rows.stride, z * columns.stride
            seen = x[
                first : first + per_group,
                top : top + rows.kernel * rows.dilation : rows.dilation,
                left : left + columns.kernel * columns.dilation : columns.dilation,
            ]
            result[output, y, z] = (seen * weight[output]).sum()
    return result if operation.bias is None else result + operation.bias[:, None, None]


def pool(operation, x):
    rows, columns = operation.window
    empty = 0 if operation.pad_counts else np.nan
    x = np.pad(x, ((0, 0), (rows.before, rows.behind), (columns.before, columns.behind)), constant_values=empty)
    windows = np.lib.stride_tricks.sliding_window_view(x, (rows.kernel, columns.kernel), (1, 2))
    windows = windows[:, :: rows.stride, :: columns.stride]
    return (np.nanmax if operation.kind == "max_pool" else np.nanmean)(windows, axis=(3, 4))


def activate(operation, x):
    low, high = operation.low, operation.high
    return {
        "none": lambda: x,
        "relu": lambda: np.maximum(x, 0),
        "clip": lambda: np.clip(x, low, high),
        "hard_sigmoid": lambda: np.clip(low * x + high, 0, 1),
        "hard_swish": lambda: x * np.clip(x / 6 + 0.5, 0, 1),
        "sigmoid": lambda: 1 / (1 + np.exp(-x)),
        "swish": lambda: x / (1 + np.exp(-x)),
    }[operation.activation]()


def random_weight(random, shape, density):
    """Normal numbers of a density, of a size that keeps activations theirs."""
    weight = random.standard_normal(shape) * (random.random(shape) < density)
    return (weight / np.sqrt(max(density * np.prod(shape[1:]), 1))).astype(np.float32)


def random_convolution(random, source, shape, groups=1, **fields):
    """A convolution on a tensor of a shape, and its random window."""
    channels = shape[0]
    window = fields.pop("window", None)
    while window is None:
        kernel, stride, dilation = random.integers(1, 6, 2), random.integers(1, 4, 2), random.integers(1, 3, 2)
        spans = (kernel - 1) * dilation + 1
        pads = [random.integers(0, span, 2) for span in spans]
        if random.random() < 0.5:  # one that keeps the size
            stride, pads = (1, 1), [((span - 1) // 2, span - 1 - (span - 1) // 2) for span in spans]
        if all(n + sum(pad) >= span for n, pad, span in zip(shape[1:], pads, spans)):
            window = tuple(Axis(*map(int, (k, s, *pad, d))) for k, s, pad, d in zip(kernel, stride, pads, dilation))
    outputs = groups * int(random.integers(1, 9))
    weight = random_weight(
        random, (outputs, channels // groups, window[0].kernel, window[1].kernel), random.choice([0.05, 0.3, 1.0])
    )
    bias = random.standard_normal(outputs).astype(np.float32)
    return Operation("convolution", (source,), window=window, groups=groups, weight=weight, bias=bias, **fields)


def random_graph(seed):
    """Convolutions of any window one after the other, sums where shapes allow them, and a head."""
    random = np.random.default_rng(seed)
    groups = int(random.choice([1, 2, 4]))
    graph = Graph((groups * int(random.integers(1, 6)), *map(int, random.integers(1, 24, 2))), [])
    for index in range(5):
        shapes = shapes_of(graph)
        operation = random_convolution(random, index, shapes[-1], groups if shapes[-1][0] % groups == 0 else 1)
        result = output_shape(operation, [shapes[-1]])
        equal = [tensor for tensor, shape in enumerate(shapes) if shape == result]
        if equal:
            operation = operation._replace(inputs=(index, int(random.choice(equal))))
        graph.operations.append(operation._replace(activation=random.choice(["none", "hard_swish", "swish"])))
    graph.operations.append(head(random, 5, shapes_of(graph)[-1]))
    return graph


def residual_graph(random, width, size, blocks=3):
    """Blocks of two 3x3 convolutions with shortcuts, of which the middle one halves the maps."""
    operations, source, channels = [], 0, 3

    def convolution(source, channels, outputs, stride=1, kernel=3, **fields):
        axis = Axis(kernel, stride, kernel // 2, kernel // 2)
        weight = random_weight(random, (outputs, channels, kernel, kernel), 0.2)
        inputs = (source, *fields.pop("inputs", ()))
        operations.append(Operation("convolution", inputs, window=(axis, axis), weight=weight, **fields))
        return len(operations)

    for block in range(blocks):
        stride = 2 if block == 1 else 1
        shortcut = source if channels == width and stride == 1 else convolution(source, channels, width, stride, 1)
        first = convolution(source, channels, width, stride, activation="relu")
        source = convolution(first, width, width, inputs=(shortcut,), activation="relu")
        channels = width
    operations.append(head(random, source, shapes_of(Graph((3, size, size), operations))[-1]))
    return Graph((3, size, size), operations)


def head(random, source, shape, outputs=7):
    """A fully connected layer over all of a tensor."""
    window = tuple(Axis(length) for length in shape[1:])
    weight = random_weight(random, (outputs, *shape), random.choice([0.3, 1.0]))
    return Operation("convolution", (source,), window=window, weight=weight)


def mixed_graph(seed=0, size=12):
    """A small network in which every kind of operation and activation occurs; its shapes are those of edge networks."""
    random = np.random.default_rng(seed)
    operations = []

    def add(operation):
        operations.append(operation)
        return len(operations)

    def convolution(source, channels, outputs, kernel=1, stride=1, groups=1, density=0.3, inputs=(), **fields):
        axis = Axis(kernel, stride, kernel // 2, kernel // 2)
        weight = random_weight(random, (outputs, channels // groups, kernel, kernel), density)
        bias = random.standard_normal(outputs).astype(np.float32)
        return add(
            Operation(
                "convolution",
                (source, *inputs),
                window=(axis, axis),
                groups=groups,
                weight=weight,
                bias=bias,
                **fields,
            )
        )

    stem = convolution(0, 3, 8, 3, 2, density=1.0, activation="hard_swish")
    wide = convolution(stem, 8, 16, activation="clip", low=-0.5, high=1.5)
    deep = convolution(wide, 16, 16, 5, groups=16, density=0.8, activation="swish")
    mean = add(Operation("average_pool", (deep,), window=(Axis(size // 2), Axis(size // 2))))
    squeezed = convolution(mean, 16, 4, activation="relu")
    gate = convolution(squeezed, 4, 16, activation="hard_sigmoid", low=0.2, high=0.5)
    scaled = add(Operation("multiply", (deep, gate)))
    narrow = convolution(scaled, 16, 8, inputs=(stem,))
    other = convolution(narrow, 8, 8, 3, activation="sigmoid", density=0.1)
    both = add(Operation("concatenate", (narrow, other)))
    summed = add(Operation("add", (wide, both), "relu"))
    pooled = add(Operation("max_pool", (summed,), window=(Axis(3, 2, 1, 1), Axis(3, 2, 1, 1))))
    mean = add(Operation("average_pool", (pooled,), window=(Axis(2, 1, 0, 1), Axis(2, 1, 1, 0)), pad_counts=True))
    same = add(Operation("activation", (mean,), "hard_swish"))
    shape = (16, (size // 2 + 1) // 2, (size // 2 + 1) // 2)
    outputs = add(head(random, same, shape))
    add(Operation("softmax", (outputs,)))
    return Graph((3, size, size), operations)
