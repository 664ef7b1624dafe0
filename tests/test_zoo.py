"""Networks of mindcv: trained, pruned, folded, exported and counted as ours are."""

import sys

import mindspore as ms
import numpy as np
import onnxruntime
import pytest
from mindspore import Tensor, nn, ops

from benchmark.random_checkpoint import settle_batch_norms
from src.config.keys import resolve
from src.data import DataInfo
from src.export import formats
from src.export.deployed import describe_interface
from src.export.multiply_adds import count_multiply_adds
from src.models import build_model
from src.models.mindcv_networks import build_mindcv, parse_arguments
from src.platform.errors import InputError
from src.pruning.layers import depthwise_densities
from src.pruning.methods import build_schedule
from src.pruning.pruner import prunable_layers, prunable_weights
from src.run.build import build_parts, build_pruner, describe_model
from src.weights.checkpoint import write_network
from src.weights.trained import load_trained

pytest.importorskip("mindcv")
SIZE = 32
SLOW = ["mobilenet_v3_small_100", "efficientnet_b0", "shufflenet_v2_x1_0"]
NETWORKS = ["mobilenet_v2_100", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


@pytest.fixture(scope="module", params=NETWORKS)
def pruned(request, tmp_path_factory):
    """Checkpoint of a network of five classes that the pruner has brought to 90 %, and its network before."""
    ms.set_seed(0)
    model = {"name": f"mindcv/{request.param}", "num_classes": 5, "in_channels": 3}
    config = resolve({"model": model["name"], "sparsity": 0.9, "update_interval": 5})
    network = build_model(**model)
    pruner = build_pruner(config, network, build_schedule(config, 20))
    random = np.random.default_rng(0)
    momentum = [[] for _ in pruner.weights]
    for step in range(1, 21):
        if pruner.is_update(step):
            gradients = [Tensor(random.standard_normal(w.shape).astype(np.float32)) for w in pruner.weights]
            pruner.update(step, gradients, momentum)
            for weight, mask, gradient in zip(pruner.weights, pruner.device_masks, gradients):
                ops.assign(weight, weight - 1e-3 * gradient * mask)  # what has grown leaves zero, as in training
    pruner.check()
    settle_batch_norms(network, (8, 3, SIZE, SIZE))
    data = {"mean": [0.5] * 3, "std": [0.25] * 3, "crop": 1.0}
    description = {"model": model, "image_shape": [3, SIZE, SIZE], "classes": list("abcde"), "data": data}
    path = tmp_path_factory.mktemp(request.param) / "net.ckpt"
    write_network(path, network, {**description, "config": dict(config)})
    return path


def depthwise(network):
    return [cell for _, cell in prunable_layers(network) if isinstance(cell, nn.Conv2d) and cell.group > 1]


def test_exactly_90_percent_is_zero_and_no_depthwise_filter_has_died(pruned):
    network = load_trained(pruned).network
    weights = [cell.weight.asnumpy() for _, cell in prunable_layers(network)]
    size = sum(weight.size for weight in weights)
    assert sum(np.count_nonzero(weight) for weight in weights) == round(0.1 * size)
    assert all(weight.any() for weight in weights)
    assert depthwise(network)
    for cell in depthwise(network):
        assert np.count_nonzero(cell.weight.asnumpy()) == cell.weight.size


@pytest.mark.parametrize(("file_format", "fold_bn"), [("MINDIR", False), ("ONNX", True)])
def test_exported_it_gives_the_same_outputs(pruned, tmp_path, fold_bn, file_format):
    trained = load_trained(pruned)
    images = np.random.default_rng(1).standard_normal((3, 3, SIZE, SIZE)).astype(np.float32)
    expected = trained.network(Tensor(images)).asnumpy()  # before anything is folded
    assert expected.std(0).min() > 0.01 * np.abs(expected).max()  # the images do make a difference
    path = tmp_path / f"net.{file_format.lower()}"
    exported = formats.export_graph(pruned, file_format, path, describe_interface(trained, None), fold_bn)
    assert (exported.zeros, exported.weights) == (
        sum(np.count_nonzero(weight == 0) for weight in trained.weights().values()),
        sum(weight.size for weight in trained.weights().values()),
    )
    if file_format == "ONNX":
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        outputs = session.run(None, {session.get_inputs()[0].name: images})[0]
        assert not fold_bn or b"BatchNormalization" not in path.read_bytes()
    else:
        outputs = nn.GraphCell(ms.load(str(path)))(Tensor(images)).asnumpy()
    largest = np.abs(expected).max()
    # EfficientNet's BatchNorm over a few images multiplies the last bit of an image by hundreds.
    last_bit = trained.network(Tensor(np.nextafter(images, np.float32(np.inf)))).asnumpy()
    assert np.abs(outputs - expected).max() < max(
        1e-4 * largest, min(30 * np.abs(last_bit - expected).max(), 1e-3 * largest)
    )


def test_the_sparse_runtime_gives_the_same_outputs(pruned, tmp_path):
    exported = formats.export_graph(pruned, "SPARSE", tmp_path / "net.sparse", describe_interface(load_trained(pruned)))
    assert 0.9 * exported.weights <= exported.zeros  # written only after a comparison of the outputs


def test_packed_it_is_the_same(pruned, tmp_path):
    exported = formats.export_packed(pruned, tmp_path / "net.packed")
    assert exported.deviation == 0
    assert exported.bytes < pruned.stat().st_size / 4


def test_multiply_adds_are_those_of_the_definition(pruned):
    """One for each input of each output, from the shapes that go in and come out."""
    network = load_trained(pruned).network
    costs = {cost.name: cost for cost in count_multiply_adds(network, Tensor(np.zeros((1, 3, SIZE, SIZE), np.float32)))}
    sizes = {}
    cells = [(name, cell) for name, cell in network.cells_and_names() if name in costs]
    handles = [
        cell.register_forward_hook(lambda _, x, y, name=name: sizes.update({name: (x[0].shape, y.shape)}))
        for name, cell in cells
    ]
    network(Tensor(np.zeros((1, 3, SIZE, SIZE), np.float32)))
    for handle in handles:
        handle.remove()
    for name, cell in cells:
        taken, given = sizes[name]
        per_output = taken[1] if isinstance(cell, nn.Dense) else taken[1] // cell.group * np.prod(cell.kernel_size)
        assert costs[name].dense == np.prod(given) * per_output
        alive = np.count_nonzero(cell.weight.asnumpy())
        assert costs[name].left * cell.weight.size == costs[name].dense * alive


def test_depthwise_layers_share_half_of_a_small_budget():
    class Net(nn.Cell):
        def __init__(self):
            super().__init__()
            self.wide = nn.Conv2d(8, 64, 1)  # 512 weights
            self.depthwise = nn.Conv2d(64, 64, 3, group=64)  # 576
            self.grouped = nn.Conv2d(64, 64, 1, group=2)  # 2,048
            self.head = nn.Dense(64, 10)  # 640

    network = Net()
    weights = prunable_weights(network)
    assert depthwise_densities(network, weights, 0.5) == {1: 1.0}
    assert depthwise_densities(network, weights, 0.1) == {1: 378 / 2 / 576}
    assert depthwise_densities(network, weights, 0.1, least=0.4) == {1: 0.4}
    assert depthwise_densities(network, weights[1:], 0.1) == {0: 326 / 2 / 576}  # the first layer excluded
    network = nn.SequentialCell(nn.Conv2d(3, 3, 3), nn.Dense(4, 4))
    assert depthwise_densities(network, prunable_weights(network), 0.1) == {}


def test_arguments_reach_the_network():
    assert parse_arguments("alpha=0.5, round_nearest=4,name=x") == {"alpha": 0.5, "round_nearest": 4, "name": "x"}
    assert parse_arguments("") == {}
    for argument in ({"pretrained": True}, {"checkpoint_path": "x.ckpt"}):
        with pytest.raises(InputError, match="--pretrained FILE"):
            build_mindcv("mobilenet_v2_100", 3, 3, {"alpha": 0.5, **argument})
    config = resolve({"model": "mindcv/mobilenet_v2_100", "model_args": "round_nearest=64"})
    network = build_model(**describe_model(config, DataInfo(3, (1, 32, 32), (0.5,), (0.5,))))
    assert prunable_layers(network)[0][1].weight.shape == (64, 1, 3, 3)  # 32 channels without the argument
    assert prunable_layers(network)[-1][1].weight.shape == (3, 1280)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"model": "mindcv/mobilenet_v2_10"},
            r"has no network mobilenet_v2_10; did you mean mindcv/mob",
        ),
        ({"model": "mindcv/mobilenet_v2_100", "model_args": "wings=2"}, "does not take {'wings': 2}"),
        ({"model": "mindcv/mobilenet_v2_100", "model_args": "num_classes=2"}, "does not take {'num_classes': 2}"),
        ({"model": "resnet20", "model_args": "alpha=2"}, "model_args: only for networks of mindcv"),
        ({"model": "mindcv/mobilenet_v2_100", "model_args": "wings"}, "model_args: 'wings' is not NAME=VALUE"),
        ({"model": "mindcv/mobilenet_v2_100", "model_args": "wings=["}, "model_args: '\\[' is not a value"),
        ({"model": "mindcv/../x"}, "model: Input should be 'resnet20', .* or 'mindcv/NAME'"),
    ],
)
def test_what_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        build_parts(resolve(settings))


def test_without_mindcv_a_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mindcv", None)
    with pytest.raises(InputError, match="needs mindcv; run: pip install mindcv"):
        build_model("mindcv/mobilenet_v2_100", 3, 3)
