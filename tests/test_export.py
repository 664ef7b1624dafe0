"""Exported graphs: the network's outputs and zeros, folding, what the file says of itself, and that checks can fail."""

import shlex
import sys
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import onnx
import pytest
from mindspore import Tensor, nn
from mindspore.train.mind_ir_pb2 import ModelProto

from benchmark.random_checkpoint import settle_batch_norms
from src.config.keys import resolve
from src.data import PUBLISHED, digits, published_info
from src.export import deployed, formats, report
from src.export.deployed import Interface, describe_interface, prepare
from src.export.edge import adapt_command, adapted, atc_command, converter_command, write_converter_config
from src.export.fold import fold_batch_norms
from src.export.mindir import get_metadata, put_metadata, read_metadata
from src.export.multiply_adds import count_multiply_adds
from src.export.onnx_file import open_onnx
from src.export.packed import size_bound
from src.export.report import rounding_tolerance
from src.models import build_model
from src.platform.errors import InputError
from src.programs import export
from src.weights.checkpoint import read_checkpoint, write_checkpoint
from src.weights.trained import Trained, load_trained


@pytest.fixture
def resnet20(trained_resnet20):
    return trained_resnet20[0]


@pytest.fixture
def resnet50(pruned_resnet50):
    return pruned_resnet50


def outputs_of(path, images):
    """What another reader than the exporter's own check makes of a file."""
    if path.suffix == ".onnx":
        session = open_onnx(path)
        return session.run(None, {session.get_inputs()[0].name: images})[0]
    return nn.GraphCell(ms.load(str(path)))(Tensor(images)).asnumpy()


def zeros_in(trained):
    return sum(int((weight == 0).sum()) for weight in trained.weights().values())


@pytest.mark.parametrize(
    ("name", "file_format", "fold_bn"),
    [
        ("resnet20", "MINDIR", False),
        ("resnet20", "MINDIR", True),
        ("resnet20", "ONNX", False),
        ("resnet20", "ONNX", True),
        pytest.param("resnet50", "MINDIR", False, marks=pytest.mark.slow),
        ("resnet50", "MINDIR", True),
        pytest.param("resnet50", "ONNX", False, marks=pytest.mark.slow),
        pytest.param("resnet50", "ONNX", True, marks=pytest.mark.slow),
    ],
)
def test_a_file_gives_the_networks_logits_and_keeps_its_zeros(request, tmp_path, name, file_format, fold_bn):
    ckpt = request.getfixturevalue(name)
    before = ckpt.read_bytes()
    trained = load_trained(ckpt)
    path = tmp_path / f"net{formats.SUFFIXES[file_format]}"
    exported = formats.export_graph(ckpt, file_format, path, describe_interface(trained, None), fold_bn)
    images = np.random.default_rng(1).standard_normal((3, *trained.image_shape)).astype(np.float32)
    logits = trained.network(Tensor(images)).asnumpy()
    assert np.abs(logits - logits[0]).max() > 1e-2 * np.abs(logits).max()  # they do depend on the image
    assert report.largest_deviation(logits, outputs_of(path, images)) <= (1e-4 if fold_bn else 1e-5)
    assert (exported.zeros, exported.weights) == (zeros_in(trained), sum(w.size for w in trained.weights().values()))
    assert exported.zeros / exported.weights == pytest.approx(0.98, abs=1e-3)
    assert exported.bytes == path.stat().st_size
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert ckpt.read_bytes() == before


@pytest.mark.parametrize("values", ["fp32", "fp16", "int8"])
def test_packed_stays_near_the_bound(resnet20, tmp_path, values):
    exported = formats.export_packed(resnet20, tmp_path / "net.packed", values)
    assert exported.bytes <= 1.05 * size_bound(read_checkpoint(resnet20)[0], values)[1]
    zeros = zeros_in(load_trained(resnet20))
    assert exported.zeros == zeros if values != "int8" else zeros <= exported.zeros < 1.01 * zeros
    if values == "fp32":
        assert exported.deviation == 0
        formats.unpack_checkpoint(tmp_path / "net.packed", tmp_path / "net.ckpt")
        assert (tmp_path / "net.ckpt").read_bytes() == resnet20.read_bytes()
    else:
        assert 0 < exported.deviation < (1e-2 if values == "fp16" else 0.1)
        formats.unpack_checkpoint(tmp_path / "net.packed", tmp_path / "net.ckpt")
        assert zeros_in(formats.load_for_export(tmp_path / "net.ckpt")) == exported.zeros


@pytest.mark.parametrize("file_format", ["MINDIR", "ONNX"])
def test_normalisation_and_softmax_move_into_the_graph(resnet20, tmp_path, file_format):
    path = tmp_path / f"net{formats.SUFFIXES[file_format]}"
    trained = load_trained(resnet20)
    interface = describe_interface(trained, 2, normalize=True, softmax=True)
    formats.export_graph(resnet20, file_format, path, interface)
    pixels = interface.random_images(seed=3)
    logits = trained.network(Tensor((pixels / 255 - digits.MEAN[0]) / digits.STD[0])).asnumpy().astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert np.allclose(outputs_of(path, pixels), expected, atol=1e-5)
    metadata = read_metadata(path) if file_format == "MINDIR" else open_onnx(path).get_modelmeta().custom_metadata_map
    assert Interface.from_metadata(metadata) == interface
    assert interface.classes == tuple("0123456789")


@pytest.mark.parametrize("field", [ModelProto().user_info, onnx.ModelProto().metadata_props], ids=["mindspore", "list"])
def test_metadata_survive_in_a_map_and_in_a_list_of_entries(field):
    put_metadata(field, {"rpg.classes": '["0", "1"]', "rpg.batch_size": "null"})
    assert len(field) == 2
    assert get_metadata(field) == {"rpg.classes": '["0", "1"]', "rpg.batch_size": "null"}


def test_onnx_is_of_an_opset_that_others_take(resnet20, tmp_path):
    formats.export_graph(resnet20, "ONNX", tmp_path / "x.onnx", describe_interface(load_trained(resnet20), None))
    model = onnx.load(str(tmp_path / "x.onnx"))
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 11)]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert {node.domain for node in model.graph.node} == {""}


class Branches(nn.Cell):
    """Convolutions with a bias, with groups, and one whose output a BatchNorm shares with another layer."""

    def __init__(self):
        super().__init__()
        self.first = nn.SequentialCell(nn.Conv2d(3, 4, 3, has_bias=True), nn.BatchNorm2d(4), nn.ReLU())
        self.grouped = nn.Conv2d(4, 4, 3, group=2, pad_mode="valid")
        self.relu = nn.ReLU()
        self.late = nn.BatchNorm2d(4)
        self.classifier = nn.Dense(4, 2)

    def construct(self, x):
        x = self.late(self.relu(self.grouped(self.first(x))))
        return self.classifier(x.mean((2, 3)))


def test_folding_touches_only_pairs_that_follow_each_other():
    network = Branches()
    settle_batch_norms(network, (4, 3, 8, 8))
    weight = network.first[0].weight
    weight.set_data(Tensor(np.where(np.arange(108).reshape(4, 3, 3, 3) % 3, 0, weight.asnumpy())))
    network.first[1].gamma.set_data(Tensor(np.float32([-1, 1, -2, 0.5])))  # negative: 0 times it is -0.0
    images = Tensor(np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32))
    before, zeros = network(images).asnumpy(), weight.asnumpy() == 0
    assert fold_batch_norms(network, images) == 1
    assert isinstance(network.first[1], nn.Identity)
    assert isinstance(network.late, nn.BatchNorm2d)
    assert np.allclose(network(images).asnumpy(), before, atol=1e-5)
    folded = network.first[0].weight.asnumpy()
    assert np.array_equal(folded == 0, zeros)
    assert not np.signbit(folded[zeros]).any()
    names = [parameter.name for parameter in network.get_parameters()]
    assert len(set(names)) == len(names)


def test_a_wrong_file_is_noticed_and_not_kept(resnet20, tmp_path, monkeypatch):
    trained = load_trained(resnet20)
    deployment = prepare(trained, describe_interface(trained, 1))
    path = tmp_path / "net.mindir"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="outputs differ"):
        formats.export_mindir(deployment._replace(outputs=deployment.outputs + 0.01), path)
    fewer = {name: np.zeros_like(weight) for name, weight in deployment.weights.items()}
    with pytest.raises(RuntimeError, match="zeros in the written file"):
        formats.export_mindir(deployment._replace(weights=fewer), path)
    with pytest.raises(RuntimeError, match="is not in the written file"):
        formats.export_mindir(deployment._replace(weights={"other": fewer["conv1.weight"]}), path)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.mindir"]

    monkeypatch.setattr(formats, "unpack", lambda path: ({}, {}))
    with pytest.raises(RuntimeError, match="unpacks to something else"):
        formats.export_packed(resnet20, tmp_path / "net.packed")
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.mindir"]


def test_a_network_that_multiplies_rounding_errors_may_differ_by_as_much():
    outputs = np.float32([[-4.0, 2.0]])
    for change, expected in ((0, 1e-4), (1e-5, 1e-4), (8e-5, 6e-4), (1, 1e-3)):
        assert rounding_tolerance(outputs, outputs + np.float32([[change, 0]])) == pytest.approx(expected, rel=0.01)
    images = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)
    moved = deployed._nudged(images)
    assert moved.dtype == np.float32
    assert np.array_equal(np.abs(moved.view(np.int32) - images.view(np.int32)), np.ones_like(images))  # one last place
    assert 0.3 < np.mean(moved > images) < 0.7


def test_nan_outputs_never_pass():
    with pytest.raises(RuntimeError):
        report.check_outputs("x", np.ones(3), np.array([1, np.nan, 1]))


@pytest.mark.parametrize(
    ("source", "name", "suffix", "values", "expected"),
    [
        ("best.ckpt", None, ".mindir", "fp32", "best.mindir"),
        ("best.ckpt", None, ".packed", "fp32", "best.packed"),
        ("best.ckpt", None, ".packed", "fp16", "best.fp16.packed"),
        ("best.fp16.packed", None, ".ckpt", "fp32", "best.fp16.ckpt"),
        ("best.ckpt", "net", ".packed", "fp16", "net.packed"),
        ("best.ckpt", "net.packed", ".packed", "fp16", "net.packed"),
    ],
)
def test_a_file_that_exists_is_replaced_only_if_asked(tmp_path, source, name, suffix, values, expected):
    arguments = (tmp_path / source, name and tmp_path / name, suffix)
    assert formats.output_path(*arguments, values=values) == tmp_path / expected
    (tmp_path / expected).touch()
    with pytest.raises(InputError, match=f"file_name: .*{expected} exists; replace it with --overwrite"):
        formats.output_path(*arguments, values=values)
    assert formats.output_path(*arguments, overwrite=True, values=values) == tmp_path / expected
    with pytest.raises(InputError, match="is the input file"):
        formats.output_path(tmp_path / source, tmp_path / source, (tmp_path / source).suffix, overwrite=True)


def test_the_program_replaces_nothing_unasked(resnet20, tmp_path, monkeypatch):
    """A graph, its converter's configuration, a packed file and what it unpacks to, each found in place."""
    taken = {name: tmp_path / name for name in ("net.onnx", "net.onnx.converter.cfg", "net.packed", "net.ckpt")}

    def run_export(*words):
        monkeypatch.setattr(sys, "argv", ["export.py", *map(str, words)])
        export.main()

    graph = ("--ckpt", resnet20, "--file_format", "ONNX", "--file_name", tmp_path / "net", "--converter_config")
    packed = ("--ckpt", resnet20, "--file_format", "PACKED", "--file_name", taken["net.packed"])
    unpacked = ("--unpack", taken["net.packed"])
    for words, made in (
        (graph, ["net.onnx", "net.onnx.converter.cfg"]),
        (packed, ["net.packed"]),
        (unpacked, ["net.ckpt"]),
    ):
        run_export(*words)
        content = {name: taken[name].read_bytes() for name in made}
        for name in made:
            for other in made:
                taken[other].unlink(missing_ok=True)
            taken[name].write_text("precious")
            with pytest.raises(InputError, match=f"{name} exists; replace it with --overwrite"):
                run_export(*words)
            assert taken[name].read_text() == "precious"
            assert {other for other in made if taken[other].exists()} == {name}
        run_export(*words, "--overwrite")
        assert {name: taken[name].stat().st_size for name in made} == {name: len(c) for name, c in content.items()}


def test_a_network_short_of_its_target_is_exported_with_a_warning(resnet20, tmp_path, monkeypatch, capsys):
    tensors, description = read_checkpoint(resnet20)
    assert formats.unmet_target(load_trained(resnet20)) is None
    sizes = [weight.size for weight in load_trained(resnet20).weights().values()]
    for name, sparsity in (("early", 0.99), ("one", 0.98 + 1 / sum(sizes))):  # 0.98 and a single weight more
        config = {**description["config"], "sparsity": sparsity}
        write_checkpoint(tmp_path / f"{name}.ckpt", tensors, {**description, "config": config})
    assert "98.000" in formats.unmet_target(load_trained(tmp_path / "one.ckpt"))
    monkeypatch.setattr(sys, "argv", ["export.py", "--ckpt", str(tmp_path / "early.ckpt"), "--file_format", "PACKED"])
    export.main()
    said = capsys.readouterr().err
    assert said.startswith(f"warning: {tmp_path}/early.ckpt: its sparsity, counted, is 98.000")
    assert "its run's target is 99 %" in said
    assert said.count("\n") == 1
    assert (tmp_path / "early.packed").exists()


def test_air_needs_ascend(resnet20, tmp_path):
    with pytest.raises(InputError, match="AIR needs MindSpore's Ascend backend"):
        formats.export_graph(resnet20, "AIR", tmp_path / "x.air", describe_interface(load_trained(resnet20)))
    assert not list(tmp_path.iterdir())


def test_multiply_adds_of_known_layers(tmp_path):
    network = Branches().set_train(False)
    weight = np.zeros((4, 3, 3, 3), np.float32)
    weight[0] = 1
    network.first[0].weight.set_data(Tensor(weight))
    costs = count_multiply_adds(network, Tensor(np.zeros((1, 3, 8, 8), np.float32)))
    assert [(cost.name, cost.dense) for cost in costs] == [
        ("first.0", 64 * 4 * 27),
        ("grouped", 36 * 4 * 18),
        ("classifier", 8),
    ]
    assert costs[0].left == 64 * 27
    assert costs[2].left == 8


def test_resnet50_costs_what_the_field_says(resnet50):
    """4.09 G multiply-adds at 224 x 224 for this variant (the stride in the 3x3 convolution)."""
    costs = count_multiply_adds(load_trained(resnet50).network, Tensor(np.zeros((1, 3, 224, 224), np.float32)))
    assert sum(cost.dense for cost in costs) == 4_089_184_256


def test_converter_configuration(tmp_path):
    interface = Interface((3, 32, 32), 1, (0.0,), (1.0,), False, False, 1.0, ("a",))
    write_converter_config(tmp_path / "fixed", interface)
    assert (tmp_path / "fixed").read_text() == "[ascend_context]\ninput_format=NCHW\n"
    write_converter_config(tmp_path / "free", interface._replace(batch_size=None))
    assert "input_shape=images:[-1,3,32,32]\ndynamic_dims=[1],[2],[4],[8]\n" in (tmp_path / "free").read_text()
    command = converter_command(tmp_path / "a net.onnx", tmp_path / "fixed", "ONNX")
    assert f"--fmk=ONNX '--modelFile={tmp_path}/a net.onnx' '--outputFile={tmp_path}/a net_ascend'" in command
    atc = atc_command(tmp_path / "net.onnx", interface)
    assert atc.startswith(f"atc --framework=5 --model={tmp_path}/net.onnx --output={tmp_path}/net --soc_version=CHIP ")
    assert atc.endswith(" --input_shape=images:1,3,32,32")
    free = atc_command(tmp_path / "net.onnx", interface._replace(batch_size=None))
    assert free.endswith(" --input_shape=images:-1,3,32,32 --dynamic_batch_size=1,2,4,8")


def test_converter_configuration_of_two_of_four(tmp_path):
    interface = Interface((3, 32, 32), 1, (0.0,), (1.0,), False, False, 1.0, ("a",))
    write_converter_config(tmp_path / "sparse", interface, sparse=True)
    assert (tmp_path / "sparse").read_text() == (
        "[ascend_context]\ninput_format=NCHW\n\n[acl_init_options]\nge.enableSparseMatrixWeight=1\n"
    )
    assert atc_command(tmp_path / "net.onnx", interface, sparse=True).endswith(" --sparsity=1")
    words = shlex.split(adapt_command(tmp_path / "it's.int8.onnx"))
    assert words[:2] == ["python3", "-c"]
    calls = []
    fake = SimpleNamespace(convert_qat_model=lambda model, prefix: calls.append((model, prefix)))
    exec(words[2].replace("import amct_onnx; ", ""), {"amct_onnx": fake})
    assert calls == [(f"{tmp_path}/it's.int8.onnx", f"{tmp_path}/it's.int8")]
    assert adapted(tmp_path / "it's.int8.onnx").name == "it's.int8_deploy_model.onnx"


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_data_set_says_what_deployment_needs(name):
    data = published_info(name)
    assert len(data.mean) == len(data.std) == data.image_shape[0]


def test_a_network_of_another_data_set_has_numbered_classes():
    trained = Trained(build_model("resnet20", 3, 1), resolve({}), published_info("digits"))
    assert describe_interface(trained).classes == ("0", "1", "2")
