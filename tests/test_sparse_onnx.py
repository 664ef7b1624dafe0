"""ONNX files for the sparse runtime: every operator against onnxruntime, whole networks, what is refused."""

import subprocess
import sys

import mindspore as ms
import numpy as np
import onnx
import pytest
from mindspore import Tensor
from onnx import TensorProto, helper, numpy_helper

from benchmark.random_checkpoint import settle_batch_norms
from src.export.onnx_file import open_onnx
from src.export.sparse.file import to_bytes, weights_of
from src.export.sparse.graph import read_onnx
from src.export.sparse.runtime import LIBRARY, SparseModel
from src.models import MODELS, build_model
from src.platform.errors import InputError
from src.tools import sparse_model

TOLERANCE = 1e-4  # of the largest output


class Network:
    """An ONNX file in the making: nodes from `x`, constants beside them."""

    def __init__(self, shape=(1, 4, 10, 11), opset=13):
        self.random = np.random.default_rng(0)
        self.shape, self.opset = shape, opset
        self.nodes, self.constants = [], []

    def constant(self, value, dtype=np.float32):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def weight(self, *shape):
        values = self.random.standard_normal(shape) * (self.random.random(shape) < 0.4)
        return self.constant(values / np.sqrt(np.prod(shape[1:])))

    def add(self, kind, *inputs, **attributes):
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def several(self, kind, count, *inputs, **attributes):
        names = [f"t{len(self.nodes)}.{index}" for index in range(count)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names

    def save(self, path, output):
        given = helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)
        result = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "g", [given], [result], self.constants)
        opsets = [helper.make_opsetid("", self.opset)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))
        return path


def compare(path, threads=(1,)):
    """Convert an ONNX file, run it with the runtime and compare it with onnxruntime; the graph."""
    graph = read_onnx(path)
    sparse = path.with_suffix(".sparse")
    sparse.write_bytes(to_bytes(graph))
    session = open_onnx(path)
    images = np.random.default_rng(1).standard_normal((2, *graph.input_shape)).astype(np.float32)
    name = session.get_inputs()[0].name
    expected = np.stack([session.run(None, {name: image[None]})[0].reshape(-1) for image in images])
    for isa in ("sse2", "avx2", "avx512", "neon"):
        for count in threads:
            try:
                model = SparseModel(sparse, count, isa)
            except InputError as error:
                if "no kernels" in str(error):
                    continue
                raise
            with model:
                deviation = abs(model(images) - expected).max() / abs(expected).max()
            assert deviation < TOLERANCE, (isa, count, deviation)
    return graph


def features(network, source, kind, **attributes):
    return network.add(kind, source, network.weight(6, 4, 3, 3), **attributes)


def flatten(network, source, numbers):
    """A fully connected layer, so that the result depends on every number of a tensor."""
    return network.add("Gemm", network.add("Flatten", source), network.weight(5, numbers), transB=1)


def shuffle(network, source, split, order, joined):
    source = network.add("Reshape", source, network.constant(split, np.int64))
    return network.add("Reshape", network.add("Transpose", source, perm=order), network.constant(joined, np.int64))


def slices(network, source, *bounds):
    return network.add("Slice", source, *(network.constant(values, np.int64) for values in bounds))


def split_shuffled(network):
    """As in mindcv: channels of even and of odd number become two tensors, of which the second is read."""
    both = shuffle(network, "x", (2, 2, 110), (1, 0, 2), (2, 1, 2, 10, 11))
    return network.add("Squeeze", slices(network, both, [1], [2], [0], [1]), network.constant([0], np.int64))


CASES = {
    "strides": lambda n: flatten(n, features(n, "x", "Conv", strides=[2, 3], pads=[1, 0, 2, 1]), 6 * 6 * 4),
    "dilation": lambda n: flatten(n, features(n, "x", "Conv", dilations=[2, 3], pads=[2, 3, 2, 3]), 6 * 10 * 11),
    "same_upper": lambda n: flatten(n, features(n, "x", "Conv", strides=[2, 2], auto_pad="SAME_UPPER"), 6 * 5 * 6),
    "same_lower": lambda n: flatten(n, features(n, "x", "Conv", strides=[2, 2], auto_pad="SAME_LOWER"), 6 * 5 * 6),
    "groups": lambda n: flatten(n, n.add("Conv", "x", n.weight(8, 2, 3, 3), n.weight(8), group=2), 8 * 8 * 9),
    "batch_norm": lambda n: flatten(
        n, n.add("BatchNormalization", "x", *(n.constant(np.arange(1, 5) + i) for i in range(4))), 4 * 110
    ),
    "pad_and_pool": lambda n: flatten(
        n,
        n.add(
            "MaxPool",
            n.add("Pad", "x", n.constant([0, 0, 1, 1, 0, 0, 1, 1], np.int64)),
            kernel_shape=[3, 3],
            strides=[2, 2],
        ),
        4 * 5 * 6,
    ),
    "max_pool": lambda n: flatten(
        n, n.add("MaxPool", "x", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]), 4 * 5 * 6
    ),
    "ceil_pool": lambda n: flatten(
        n, n.add("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1), 4 * 5 * 5
    ),
    "average_pool": lambda n: flatten(
        n, n.add("AveragePool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), 4 * 5 * 6
    ),
    "counted_pool": lambda n: flatten(
        n, n.add("AveragePool", "x", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1), 4 * 110
    ),
    "global_average": lambda n: n.add("GlobalAveragePool", features(n, "x", "Conv")),
    "global_max": lambda n: n.add("GlobalMaxPool", features(n, "x", "Conv")),
    "mean": lambda n: n.add("ReduceMean", features(n, "x", "Conv"), axes=[2, 3], keepdims=0),
    "relu": lambda n: flatten(n, n.add("Relu", "x"), 440),
    "clip": lambda n: flatten(n, n.add("Clip", "x", n.constant(-0.5), n.constant(0.7)), 440),
    "clip_above": lambda n: flatten(n, n.add("Clip", features(n, "x", "Conv"), "", n.constant(0.1)), 6 * 72),
    "sigmoid": lambda n: flatten(n, n.add("Sigmoid", features(n, "x", "Conv")), 6 * 72),
    "hard_sigmoid": lambda n: flatten(n, n.add("HardSigmoid", features(n, "x", "Conv"), alpha=0.3), 6 * 72),
    "softmax": lambda n: n.add("Softmax", flatten(n, "x", 440), axis=1),
    "concat": lambda n: flatten(n, n.add("Concat", "x", n.add("Relu", "x"), axis=1), 880),
    "sum": lambda n: flatten(n, n.add("Relu", n.add("Add", "x", n.add("Sigmoid", "x"))), 440),
    "product": lambda n: flatten(n, n.add("Mul", n.add("Relu", "x"), n.add("Sigmoid", "x")), 440),
    "swish": lambda n: flatten(n, n.add("Mul", "x", n.add("Sigmoid", "x")), 440),
    "normalise": lambda n: flatten(
        n, n.add("Div", n.add("Sub", "x", n.constant(np.ones((1, 4, 1, 1)))), n.constant(3.0)), 440
    ),
    "matmul": lambda n: n.add(
        "Add", n.add("MatMul", n.add("Flatten", "x"), n.weight(440, 5)), n.constant(np.arange(5))
    ),
    "shuffle": lambda n: flatten(n, shuffle(n, "x", (1, 2, 2, 10, 11), (0, 2, 1, 3, 4), (1, 4, 10, 11)), 440),
    "shuffle_of_split": lambda n: flatten(n, n.add("Relu", split_shuffled(n)), 220),
    "slice": lambda n: flatten(n, n.add("Relu", slices(n, "x", [1], [2**62], [1], [2])), 220),
    "slice_to_the_last": lambda n: flatten(n, n.add("Sigmoid", slices(n, "x", [0], [-1], [1])), 330),
    "split": lambda n: flatten(n, n.add("Mul", *n.several("Split", 2, "x", axis=1)), 220),
    "split_unequally": lambda n: flatten(n, n.several("Split", 2, "x", n.constant([1, 3], np.int64), axis=1)[1], 330),
    "rows_and_columns_joined": lambda n: flatten(
        n,
        n.add(
            "Unsqueeze",
            n.add("Flatten", shuffle(n, "x", (4, 110), (0, 1), (1, 4, 110)), axis=2),
            n.constant([0], np.int64),
        ),
        440,
    ),
    "reshape": lambda n: n.add(
        "Gemm", n.add("Reshape", "x", n.constant([1, -1], np.int64)), n.weight(5, 440), transB=1
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_operators(tmp_path, case):
    network = Network()
    compare(network.save(tmp_path / "a.onnx", CASES[case](network)))


def test_hard_swish(tmp_path):
    network = Network(opset=14)
    compare(network.save(tmp_path / "a.onnx", flatten(network, network.add("HardSwish", "x"), 440)))


def test_a_gate_on_channels(tmp_path):
    """Squeeze and excitation: one number per channel times a map, in either order."""
    network = Network()
    mean = network.add("GlobalAveragePool", "x")
    gate = network.add("HardSigmoid", network.add("Conv", mean, network.weight(4, 4, 1, 1)), alpha=1 / 6)
    out = network.add("Mul", gate, network.add("Mul", "x", gate))
    compare(network.save(tmp_path / "a.onnx", flatten(network, out, 440)))


def test_sums_move_into_convolutions(tmp_path):
    """The shortcut is computed after the convolution that it is added to: the order changes, the result does not."""
    network = Network()
    long = network.add("Conv", "x", network.weight(4, 4, 3, 3), pads=[1, 1, 1, 1])
    short = network.add("Sigmoid", network.add("Conv", "x", network.weight(4, 4, 1, 1)))
    out = network.add("Relu", network.add("Add", long, short))
    graph = compare(network.save(tmp_path / "a.onnx", flatten(network, out, 440)))
    assert [op.kind for op in graph.operations] == ["convolution"] * 3
    assert sorted(len(op.inputs) for op in graph.operations) == [1, 1, 2]


def test_picking_channels_takes_no_weights(tmp_path):
    network = Network()
    path = network.save(tmp_path / "a.onnx", CASES["shuffle"](network))
    graph = compare(path)
    assert [op.selects for op in graph.operations] == [True, False]
    assert [weight.shape for weight in weights_of(graph)] == [(5, 4, 10, 11)]


REFUSED = {
    "Transpose": lambda n: n.add("GlobalAveragePool", n.add("Transpose", "x", perm=[0, 1, 3, 2])),
    "Erf": lambda n: flatten(n, n.add("Erf", "x"), 440),
    "LeakyRelu": lambda n: flatten(n, n.add("LeakyRelu", "x"), 440),
    "output of shape": lambda n: n.add("Relu", "x"),
    "Concat.*only channels": lambda n: flatten(n, n.add("Concat", "x", "x", axis=2), 880),
    "Pad": lambda n: n.add(
        "GlobalAveragePool", n.add("Relu", n.add("Pad", "x", n.constant([0] * 3 + [1] * 5, np.int64)))
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_done_is_named(tmp_path, message):
    network = Network()
    path = network.save(tmp_path / "a.onnx", REFUSED[message](network))
    with pytest.raises(InputError, match=f"a.onnx: cannot be converted: .*{message}"):
        read_onnx(path)


@pytest.mark.parametrize("content", [b"", b"noise"])
def test_files_that_are_no_onnx(tmp_path, content):
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(InputError, match="not an ONNX file"):
        read_onnx(tmp_path / "a.onnx")
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_onnx(tmp_path / "b.onnx")


def export(network, shape, path):
    """A network's ONNX file, random weights with a few zeros."""
    random = np.random.default_rng(0)
    for weight in network.trainable_params():
        if weight.ndim > 1:
            values = weight.asnumpy()
            weight.set_data(Tensor(np.float32(values * (random.random(values.shape) < 0.3) / 0.3**0.5)))
    settle_batch_norms(network, (2, *shape))
    image = Tensor(np.zeros((1, *shape), np.float32))
    ms.onnx.export(network.set_train(False), image, file_name=str(path), input_names=["images"])


@pytest.mark.parametrize("name", ["resnet20"])
def test_a_network_of_the_zoo(tmp_path, name):
    export(build_model(name, 10, 3), (3, 32, 32), tmp_path / "a.onnx")
    compare(tmp_path / "a.onnx", (1, 2, 3, 4))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_network_of_the_zoo(tmp_path, name):
    size = 32 if name == "vgg19" or (MODELS[name].keywords == {} and MODELS[name].args[0] in (20, 32, 56)) else 224
    ms.set_seed(0)  # rounding in networks as deep as these is near the tolerance for some weights
    export(build_model(name, 10, 3), (3, size, size), tmp_path / "a.onnx")
    compare(tmp_path / "a.onnx", (1, 2, 3, 4))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v2_100", "mnasnet_100", "squeezenet1_0", "shufflenet_v2_x1_0"])
def test_networks_of_mindcv(tmp_path, name):
    import mindcv

    export(mindcv.create_model(name, num_classes=20), (3, 224, 224), tmp_path / "a.onnx")
    compare(tmp_path / "a.onnx", (1, 2, 3, 4))


@pytest.mark.parametrize("seed", range(24))
def test_strided_convolutions_channel_by_channel(seed, tmp_path):
    """Of any size, kernel, stride and padding; what follows reads their borders."""
    random = np.random.default_rng(seed)
    height, width = random.integers(3, 9), random.integers(3, [10, 40, 80][seed % 3])
    size = random.integers(1, [height, width], endpoint=True).clip(max=5)
    before, behind = (random.integers(0, size) for _ in range(2))
    outputs = 6 if seed % 4 == 3 else 3
    network = Network((1, 3, int(height), int(width)))
    source = network.add(
        "Conv",
        "x",
        network.weight(outputs, 1, *size),
        network.constant(random.standard_normal(outputs)),
        group=3,
        strides=[int(random.integers(1, 4)), 2],
        pads=[*map(int, before), *map(int, behind)],
    )
    if seed % 3:
        source = network.add(["Relu", "Sigmoid"][seed % 3 - 1], source)
    source = network.add("Conv", source, network.weight(4, outputs, 3, 3), pads=[1, 1, 1, 1])
    compare(network.save(tmp_path / "a.onnx", network.add("GlobalAveragePool", network.add("Relu", source))), (1, 3))


def test_the_tool_converts_and_embeds(tmp_path, monkeypatch, capsys):
    network = Network()
    path = network.save(tmp_path / "a.onnx", flatten(network, "x", 440))
    words = ["sparse_model", str(path), str(tmp_path / "a.sparse")]
    monkeypatch.setattr(sys, "argv", words)
    sparse_model.main()
    printed = capsys.readouterr().out
    assert f"{(tmp_path / 'a.sparse').stat().st_size:,} bytes" in printed
    assert "times as fast" in printed

    monkeypatch.setattr(sys, "argv", [*words[:2], str(tmp_path / "a.c"), "--embed", "net"])
    sparse_model.main()
    (tmp_path / "main.c").write_text(
        "#include <stdio.h>\n#include <stddef.h>\n"
        "extern const unsigned char net[]; extern const size_t net_size;\n"
        "int main(void) { return fwrite(net, 1, net_size, stdout) != net_size; }\n"
    )
    subprocess.run(["cc", tmp_path / "main.c", tmp_path / "a.c", "-o", tmp_path / "main"], check=True)
    embedded = subprocess.run([tmp_path / "main"], capture_output=True, check=True).stdout
    assert embedded == (tmp_path / "a.sparse").read_bytes()
    for words, message in (
        (["a.onnx", "a.c"], "does not end in .sparse"),
        (["a.onnx", "a.sparse", "--embed", "net"], "does not end in .c"),
        (["a.onnx", "a.c", "--embed", "4"], "is no name in C"),
    ):
        monkeypatch.setattr(sys, "argv", ["sparse_model", *words])
        with pytest.raises(InputError, match=message):
            sparse_model.main()
    assert LIBRARY.exists()
