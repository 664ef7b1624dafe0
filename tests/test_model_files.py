"""ONNX and MINDIR files of unknown origin: what is refused before a library in C++ sees it, and what comes out of it.

What fuzzing has found (`test_hostile_files.py`) stands here as a fixed case.
"""

from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn
from mindspore.train.mind_ir_pb2 import AttributeProto, ModelProto
from onnx import TensorProto, helper

from src.data.batches import check_memory
from src.export.deployed import describe_interface
from src.export.inference import Classifier
from src.export.mindir import put_metadata, read_metadata
from src.export.onnx_file import open_onnx
from src.export.sparse.graph import read_onnx
from src.platform.errors import InputError
from src.programs.eval import evaluate
from tests.hostile_files import INTERFACE

IMAGES = INTERFACE.random_images()
FLAT = helper.make_node("Flatten", ["images"], ["flat"])
DENSE = [FLAT, helper.make_node("MatMul", ["flat", "w"], ["y"])]
INNER = helper.make_graph([helper.make_node("Relu", ["flat"], ["z"])], "inner", [], [])


@pytest.fixture
def write(tmp_path):
    """A function from nodes to the path of an ONNX file with an Interface, whose output is `y`."""

    def make(nodes, change=lambda model: None, output=TensorProto.FLOAT, values=1.0):
        given = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 1, 4, 4])
        weight = helper.make_tensor("w", TensorProto.FLOAT, [16, 2], np.full(32, values))
        shape = helper.make_tensor("s", TensorProto.INT64, [1], [2 * 10**9])
        graph = helper.make_graph(
            nodes, "g", [given], [helper.make_tensor_value_info("y", output, None)], [weight, shape]
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
        model.ir_version = 8
        helper.set_model_props(model, INTERFACE.to_metadata())
        change(model)
        path = tmp_path / "x.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    return make


def test_a_plain_graph_is_taken(write):
    probabilities = Classifier(write(DENSE))(IMAGES)
    assert probabilities == pytest.approx(np.repeat(IMAGES.sum((1, 2, 3)), 2).reshape(2, 2), rel=1e-5)


def outside(model):
    tensor = model.graph.initializer[0]
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"


def function(model):
    model.functions.add().name = "f"


def constant(model):
    node = model.graph.node.add()
    node.op_type, node.output[:] = "Constant", ["c"]
    tensor = node.attribute.add(name="value", type=4).t
    tensor.external_data.add(key="location", value="x")


@pytest.mark.parametrize(
    ("nodes", "change", "message"),
    [
        ([helper.make_node("Loop", ["n", "c"], ["y"], body=INNER)], lambda _: None, r"a graph inside a graph \(Loop\)"),
        ([helper.make_node("If", ["c"], ["y"], then_branch=INNER)], lambda _: None, r"a graph inside a graph \(If\)"),
        (DENSE, outside, "values in other files"),
        (DENSE, constant, "values in other files"),
        (DENSE, function, "functions of its own"),
        ([], lambda _: None, "not an ONNX file"),
    ],
    ids=["loop", "branch", "weights elsewhere", "a constant elsewhere", "functions", "empty"],
)
def test_what_could_run_on_or_read_other_files_is_refused(nodes, change, message, write):
    path = write(nodes, change)
    for reader in (Classifier, read_onnx, open_onnx):
        with pytest.raises(InputError, match=message):
            reader(path)


@pytest.mark.parametrize("shape", ["s", "m"], ids=["as it is opened", "as it is run"])
def test_memory_has_a_limit(shape, write):
    """Two billion numbers from a file of some hundred bytes."""
    nodes = [FLAT, helper.make_node("Shape", ["flat"], ["n"]), helper.make_node("Mul", ["n", "s"], ["m"])]
    nodes += [helper.make_node("ConstantOfShape", [shape], ["c"]), helper.make_node("ReduceMean", ["c"], ["y"])]
    with pytest.raises(InputError, match=r"x\.onnx cannot be run|x\.onnx: not an ONNX file"):
        Classifier(write(nodes))(IMAGES)


@pytest.mark.parametrize(
    ("nodes", "output", "values"),
    [
        (DENSE, TensorProto.FLOAT, np.nan),
        ([*DENSE[:1], helper.make_node("ReduceMean", ["flat"], ["y"], keepdims=0)], TensorProto.FLOAT, 1.0),
        ([helper.make_node("Flatten", ["images"], ["y"])], TensorProto.FLOAT, 1.0),
        (
            [DENSE[0], helper.make_node("MatMul", ["flat", "w"], ["z"]), helper.make_node("Cast", ["z"], ["y"], to=8)],
            8,
            1.0,
        ),
        ([helper.make_node("SequenceConstruct", ["images"], ["y"])], 0, 1.0),
    ],
    ids=["NaN", "a single number", "too many", "texts", "a list"],
)
def test_outputs_that_are_no_scores(nodes, output, values, write):
    def untyped(model):
        if not output:
            model.graph.output[0].ClearField("type")

    with pytest.raises(InputError, match=r"x\.onnx: its outputs are not a finite number for each class"):
        Classifier(write(nodes, untyped, output, values))(IMAGES)


def test_a_graph_for_other_images(write):
    def nine(model):
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 9

    with pytest.raises(InputError, match=r"x\.onnx cannot be run \(InvalidArgument\): it takes other images"):
        Classifier(write(DENSE, nine))(IMAGES)


def test_batches_have_an_upper_size():
    check_memory(1783, (3, 224, 224))
    trained = SimpleNamespace(
        image_shape=(3, 224, 224),
        config=SimpleNamespace(dataset="folder"),
        eval_batch_size=1,
        source=None,
        patterned=lambda: None,
        weights=dict,
    )
    message = "batch_size: 1784 images of 3 x 224 x 224 pixels are too many; 1783 are possible"
    with pytest.raises(InputError, match=message):
        describe_interface(trained, 1784)
    with pytest.raises(InputError, match=message):
        evaluate("x.ckpt", trained, SimpleNamespace(batch_size=1784))


# --- MINDIR


@pytest.fixture(scope="module")
def mindir(tmp_path_factory):
    """The bytes of a MINDIR file of a small network, with an Interface."""
    path = tmp_path_factory.mktemp("mindir") / "x.mindir"
    network = nn.SequentialCell(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Dense(32, 2))

    def add(model):
        put_metadata(model.user_info, INTERFACE.to_metadata())

    ms.export(network, INTERFACE.signature(), file_name=str(path), file_format="MINDIR", custom_func=add)
    return path.read_bytes()


def test_a_plain_mindir_is_taken(mindir, tmp_path):
    (tmp_path / "x.mindir").write_bytes(mindir)
    assert Classifier(tmp_path / "x.mindir")(IMAGES).shape == (2, 2)


def constant_node(model):
    return next(node for node in model.graph.node if node.op_type == "Constant")


def computing_node(model):
    return next(node for node in model.graph.node if node.input)


def primitive(model, kind):
    return next(primitive for primitive in model.primitives if primitive.op_type == kind)


def no_tensor(model):
    """What keeps the order of reads is added to the output, of which MindSpore died by signal 11."""
    primitive(model, "Depend").op_type = "BroadcastTo"


def deep(model):
    inner = model.primitives[0].attribute.add()
    for _ in range(50):
        inner = inner.values.add()


CHANGES = {
    "two of its values have the name": lambda m: setattr(m.graph.parameter[0], "name", m.graph.parameter[1].name),
    "reads what is not there by then": lambda m: computing_node(m).input.append("none"),
    "is none of its primitives": lambda m: setattr(computing_node(m), "op_type", "REF::none"),
    # which had ended the process by signal 11
    "computes from nothing": lambda m: setattr(constant_node(m), "op_type", computing_node(m).op_type),
    "computes with what is no tensor": no_tensor,
    "has not as many inputs as BroadcastTo takes": lambda m: setattr(primitive(m, "Flatten"), "op_type", "BroadcastTo"),
    "has not as many inputs as BiasAdd takes": lambda m: setattr(primitive(m, "Conv2D"), "op_type", "BiasAdd"),
    "has not as many inputs as Conv2D takes": lambda m: setattr(primitive(m, "ReLU"), "op_type", "Conv2D"),
    "primitive PyExecute does more than compute": lambda m: setattr(m.primitives[0], "op_type", "PyExecute"),
    "primitive Custom does more": lambda m: setattr(m.primitives[0], "op_type", "Custom"),
    "primitive TensorDump does more": lambda m: setattr(m.primitives[0], "op_type", "TensorDump"),
    "two of its primitives have one name": lambda m: m.primitives.append(m.primitives[0]),
    "graphs inside its graph": lambda m: setattr(m.functions.add(), "name", "f"),
    r"graphs inside its graph$": lambda m: setattr(m.graph.node[0].attribute.add().g, "name", "f"),
    "attributes are nested too deeply": deep,
    # which had ended the process by signal 6
    "attribute a is not what it says": lambda m: m.primitives[0].attribute.add(name="a", type=AttributeProto.TENSORS),
    "attribute b is not what it says": lambda m: m.primitives[0].attribute.add(
        name="b", type=AttributeProto.ROW_TENSOR
    ),
    "does not match its declared type and shape": lambda m: m.graph.parameter[0].dims.append(1 << 40),
    "match its declared type and shape$": lambda m: setattr(m.graph.parameter[0], "data_type", 8),
    "has no values": lambda m: m.graph.parameter[0].ClearField("raw_data"),
    "values in other files": lambda m: setattr(m.graph.parameter[0].external_data, "location", "/etc/passwd"),
    "its output is not there": lambda m: setattr(m.graph.output[0], "name", "none"),
    "it has no graph": lambda m: m.graph.ClearField("node"),
}


@pytest.mark.parametrize(("message", "change"), CHANGES.items(), ids=CHANGES)
def test_mindir_files_that_are_not_one_graph_of_computations(message, change, mindir, tmp_path):
    model = ModelProto()
    model.ParseFromString(mindir)
    change(model)
    (tmp_path / "x.mindir").write_bytes(model.SerializeToString())
    for reader in (Classifier, read_metadata):
        with pytest.raises(InputError, match=message):
            reader(tmp_path / "x.mindir")


@pytest.mark.parametrize("suffix", ["mindir", "onnx"])
def test_a_file_that_says_nonsense_of_itself_is_not_loaded(suffix, mindir, write, tmp_path, monkeypatch):
    path, texts = tmp_path / f"x.{suffix}", INTERFACE._replace(crop=0.0).to_metadata()
    if suffix == "onnx":
        path = write(DENSE, lambda model: helper.set_model_props(model, texts))
    else:
        model = ModelProto()
        model.ParseFromString(mindir)
        model.ClearField("user_info")
        put_metadata(model.user_info, texts)
        path.write_bytes(model.SerializeToString())
    for where in ("src.export.mindir.load_graph", "src.export.onnx_file.open_model"):
        monkeypatch.setattr(where, lambda *_: pytest.fail("it is loaded"))
    with pytest.raises(InputError, match="does not say what it takes"):
        Classifier(path)
