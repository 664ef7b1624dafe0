"""Whole files of every kind that the programs read, mostly well built, with a few things in them that are wrong.

Each function of `KINDS` is a hypothesis strategy of bytes: sizes that are not those of the content, types and shapes of
all sorts, deep nesting, names twice, parts missing. `tests/fuzz_files.py` runs the readers on them.
"""

import binascii
import hashlib
import io
import json
import struct
import warnings
import zipfile
import zlib
from functools import cache

import numpy as np
import yaml
from hypothesis import strategies as st
from mindspore.train.checkpoint_pb2 import Checkpoint
from mindspore.train.mind_ir_pb2 import ModelProto
from onnx import TensorProto, helper
from PIL import Image

from src.config.keys import Config
from src.export import packed
from src.export.deployed import Interface

INTERFACE = Interface((1, 4, 4), None, (1.0,), (2.0,), False, True, 0.875, ("a", "b"))

small = st.integers(0, 4)
wrong = st.sampled_from(
    [-(2**63), -(2**31), -1, 5, 255, 2**16, 2**20, 2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1]
)
number = small | wrong
shape = st.lists(small, max_size=4) | st.lists(number, max_size=4) | st.lists(st.just(1), min_size=9, max_size=70)
name = st.sampled_from(
    ["a", "a.weight", "conv1.weight", "bn.running_var", "model", "ü", "", "\0", "x" * 300]
) | st.text(max_size=5)
word = st.text(max_size=6) | st.sampled_from(["auto", "float32", "1e999", "nan", "\ud800", "../x", "/dev/zero"])


def nested(leaf, levels=600):
    """Lists and objects of leaves, sometimes very deep."""
    deep = st.tuples(leaf, st.integers(1, levels)).map(lambda pair: _wrapped(*pair))
    return (
        st.recursive(leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(name, inner, max_size=3)) | deep
    )


def _wrapped(value, levels):
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


anything = nested(st.none() | st.booleans() | number | st.floats() | word)


def changed(base, values=anything):
    """A dict like `base` in which some keys are gone, others new, and some values are anything."""
    key = st.sampled_from(sorted(base)) | name

    def change(removed, given):
        kept = {key: value for key, value in base.items() if key not in removed}
        return {**kept, **given}

    return st.builds(change, st.sets(key, max_size=1), st.dictionaries(key, values, max_size=2))


def rarely(share):
    """True one time in `share`. Hypothesis likes the ends of ranges, and would draw them much more often."""
    return st.integers(0, 2**16).map(lambda drawn: drawn * 40503 % 65521 % share == 1)


def sometimes(strategy, usual, share=4):
    """Mostly `usual`, one time in `share` of the strategy."""
    return rarely(share).flatmap(lambda drawn: strategy if drawn else usual)


# --- checkpoints, and the states of runs

_TYPES = [*("Float32", "Float32", "Float16", "Float64", "BFloat16", "Int8", "Int64", "UInt8", "Bool")]
_OTHER_TYPES = ["Float8E4M3FN", "Parameter", "str", "", "float32", "Float32\0"]
_ITEM = {"Float16": 2, "BFloat16": 2, "Float64": 8, "Int64": 8, "Int8": 1, "UInt8": 1, "Bool": 1}


@st.composite
def _tensor(draw):
    """(name, dimensions, type, content) of an entry of a checkpoint."""
    kind = draw(sometimes(st.sampled_from(_OTHER_TYPES), st.sampled_from(_TYPES)))
    dimensions = draw(shape)
    count = int(np.prod(dimensions, dtype=object)) if dimensions else 1
    size = count * _ITEM.get(kind, 4) if 0 <= count <= 1000 else 8
    size = draw(sometimes(st.integers(0, 40), st.just(size)))
    return draw(name), dimensions, kind, draw(st.sampled_from([b"\0", b"\xff", b"\x7f"])) * size


def checkpoint_of(entries):
    """The bytes of a checkpoint of MindSpore's, without a checksum."""
    message = Checkpoint()
    for tag, dimensions, kind, data in entries:
        entry = message.value.add()
        entry.tag = tag.encode("utf-8", "replace").decode()
        entry.tensor.dims.extend(dimensions)
        entry.tensor.tensor_type = kind
        entry.tensor.tensor_content = data
    return message.SerializeToString()


def _varint(value):
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


@st.composite
def _finished(draw, body, description):
    """A checkpoint's body with a description and a checksum, either of them perhaps twice, wrong or missing."""
    data = json.dumps(description).encode()
    field = _varint(1000 << 3 | 2) + _varint(len(data)) + data
    odd = [field * 2, b"", _varint(1000 << 3) + b"\5", field[:-1], _varint(1000 << 3 | 2) + _varint(2**40) + data]
    body += draw(sometimes(st.sampled_from(odd), st.just(field), 6))
    sums = [b"", b"crc_num" + bytes(10), b"crc_num" + binascii.crc32(body).to_bytes(10, "little")]
    right = b"crc_num" + binascii.crc32(body).to_bytes(10, "big")
    return body + draw(sometimes(st.sampled_from(sums), st.just(right), 8))


@st.composite
def checkpoints(draw, whole):
    """whole: tensors and description of a deployable checkpoint."""
    tensors, description = whole
    if draw(st.booleans()):
        body = checkpoint_of(draw(st.lists(_tensor(), max_size=4)))
        return draw(_finished(body, draw(anything | changed(description))))
    return draw(_finished(_arrays(draw, tensors), draw(_description(description))))


@st.composite
def states(draw, whole):
    """whole: tensors and progress of the state of a run."""
    tensors, progress = whole
    return draw(_finished(_arrays(draw, tensors), draw(sometimes(changed(progress), st.just(progress), 2))))


def _description(whole):
    model = changed(whole["model"]).map(lambda model: {**whole, "model": model})
    config = changed(whole["config"]).map(lambda config: {**whole, "config": config})
    return st.just(whole) | changed(whole) | model | config


_NP_TYPES = {
    "float32": "Float32",
    "float64": "Float64",
    "uint8": "UInt8",
    "int32": "Int32",
    "int64": "Int64",
    "bool": "Bool",
}


def _arrays(draw, tensors):
    """The body of a checkpoint of these tensors, one of which may be changed, missing, or there twice."""
    entries = [(key, array.shape, _NP_TYPES[array.dtype.name], array.tobytes()) for key, array in tensors.items()]
    place = draw(st.integers(0, len(entries) - 1))
    key, dimensions, kind, data = entries[place]
    values = np.frombuffer(data, tensors[key].dtype)
    entries[place : place + 1] = draw(
        st.just([entries[place]])
        | st.sampled_from([[], [entries[place]] * 2, [(key, dimensions, kind, data[:-1])], [(key, [], kind, data)]])
        | st.sampled_from([np.nan, np.inf, -1.0, 1e300]).map(
            lambda value: [(key, dimensions, "Float64", np.full(values.shape, value).tobytes())]
        )
        | st.sampled_from([0, 255, 85]).map(lambda byte: [(key, dimensions, kind, bytes([byte]) * len(data))])
        | shape.map(lambda dimensions: [(key, dimensions, kind, data)])
        | name.map(lambda other: [(other, dimensions, kind, data)])
        | _tensor().map(lambda entry: [(key, *entry[1:])])
    )
    return checkpoint_of(entries)


# --- PACKED

_TENSORS = {
    "a.weight": np.array([[0, 1, 0], [2, 0, 0]], np.float32),
    "b.weight": np.zeros((3, 200), np.float32),
    "bias": np.ones(3, np.float32),
    "step": np.array([7], np.int32),
}


@cache
def _sections(values):
    """Header and sections of a PACKED file, decoded."""
    body = packed.pack(_TENSORS, {"model": 1}, values)[len(packed.MAGIC) : -32]
    sections = []
    while body:
        coded, length = packed._FRAME.unpack_from(body)
        data, body = body[8 : 8 + coded], body[8 + coded :]
        sections.append(data if coded == length else packed._decompress(data, length))
    return json.loads(sections[0]), tuple(sections[1:])


@cache
def _zeros(size):
    """A section that unpacks to `size` bytes of one kind, 255, of which gaps are made."""
    return packed._encode_section(b"\xff" * size)


@st.composite
def packed_files(draw):
    values = draw(st.sampled_from(sorted(packed.VALUES)))
    header, sections = _sections(values)
    entry = st.tuples(name, st.sampled_from([*packed._DTYPES, "float8", "object"]) | anything, shape | anything).map(
        list
    )
    tensors = st.lists(entry | anything, max_size=4).map(lambda new: {**header, "tensors": new})
    numbers = changed(header, number)
    header = draw(sometimes(changed(header) | tensors | numbers | anything, st.just(header), 2))
    sections = list(map(packed._encode_section, sections))
    place = draw(st.integers(0, len(sections) - 1))
    sections[place : place + 1] = draw(
        sometimes(
            st.sampled_from([[], [sections[place]] * 2, [b""], [b"\0" * 5], [_zeros(3_000_000)], [_zeros(20_000_000)]])
            | st.tuples(number, number).map(lambda frame: [_frame(*frame) + sections[place][8:]])
            | st.binary(max_size=20).map(lambda data: [_frame(len(data), len(data) + 1) + data]),
            st.just([sections[place]]),
            2,
        )
    )
    content = packed.MAGIC + b"".join([packed._encode_section(json.dumps(header).encode()), *sections])
    return content + draw(sometimes(st.just(b""), st.just(hashlib.sha256(content).digest()), 8))


def _frame(coded, length):
    return struct.pack("<II", coded % 2**32, length % 2**32)


# --- PyTorch's files


def _text(value):
    data = value.encode("utf-8", "replace")
    return b"X" + struct.pack("<I", len(data)) + data


def _integer(value):
    return b"\x8a" + bytes([9]) + (value % 2**72 if value >= 0 else 2**72 + value).to_bytes(9, "little")


def _tuple(parts):
    return b"(" + b"".join(parts) + b"t"


_STORAGES = ["FloatStorage", "FloatStorage", "DoubleStorage", "BFloat16Storage", "BoolStorage"]


@st.composite
def _pickled_tensor(draw):
    """The instructions that rebuild a tensor."""
    kind = draw(sometimes(st.sampled_from(["UntypedStorage", "", "FloatTensor"]), st.sampled_from(_STORAGES), 12))
    storage = f"ctorch\n{kind}\n".encode()
    key = draw(sometimes(name.map(_text) | number.map(_integer), st.sampled_from(["0", "1"]).map(_text)))
    identifier = _tuple([_text("storage"), storage, key, _text("cpu"), _integer(draw(number))])
    size = draw(sometimes(shape, st.sampled_from([[2], [2, 2], [1, 3], [], [4, 1, 1, 1]]), 3))
    stride = draw(sometimes(shape, st.just([1] * len(size)), 3))
    parts = [identifier + b"Q", _integer(draw(sometimes(number, st.just(0)))), *map(_whole, (size, stride))]
    function = draw(
        sometimes(st.sampled_from([b"cos\nsystem\n", b"ctorch._utils\n_rebuild_parameter\n"]), st.just(b""))
    )
    return (function or b"ctorch._utils\n_rebuild_tensor_v2\n") + _tuple([*parts, b"\x89", b"N"]) + b"R"


def _whole(numbers):
    return _tuple(map(_integer, numbers))


def _dictionary(items):
    return b"}(" + b"".join(key + value for key, value in items) + b"u"


_odd = st.sampled_from(
    [b"h\0", b"(l", b")R", b"0", b"2", b"\x85" * 500, b"(" * 500, b"a", b"s", b"e", b"N" * 50, b"\x8f"]
)
_object = st.recursive(
    st.one_of(_pickled_tensor(), number.map(_integer), word.map(_text), st.just(b"N"), _pickled_tensor()),
    lambda inner: (
        st.lists(st.tuples(name.map(_text), inner), max_size=4).map(_dictionary)
        | st.lists(inner, max_size=4).map(_tuple)
        | st.lists(st.sampled_from(["model", "state_dict", "net"]).map(_text), min_size=1, max_size=4).flatmap(
            lambda keys: inner.map(lambda value: _dictionary((key, value + b"q\0") for key in keys))
        )
    ),
    max_leaves=6,
)


@st.composite
def _pickles(draw):
    items = draw(st.lists(st.tuples(name.map(_text), _pickled_tensor() | _object), max_size=5))
    content = draw(sometimes(_object, st.just(_dictionary(items))))
    if draw(rarely(4)):
        place = draw(st.integers(0, len(content)))
        content = content[:place] + draw(_odd) + content[place:]
    return b"\x80\x02" + content + b"."


@st.composite
def torch_archives(draw):
    file = io.BytesIO()
    kept = [("archive/data.pkl", draw(_pickles()))]
    kept += [(f"archive/data/{key}", bytes(draw(st.sampled_from([8, 16, 16, 4000])))) for key in "01"]
    if draw(rarely(4)):
        others = [
            "archive/version",
            "archive/byteorder",
            "archive/data/0",
            "archive/data.pkl",
            "x/data.pkl",
            "archive/data/",
        ]
        kept.append((draw(st.sampled_from(others)), draw(st.binary(max_size=8))))
    with zipfile.ZipFile(file, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there twice
        for key, data in kept:
            method = draw(sometimes(st.sampled_from([zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA]), st.just(0), 12))
            archive.writestr(key, data, method)
    content = bytearray(file.getvalue())
    if draw(rarely(4)):  # a field of the directory: sizes, offsets, methods, flags
        start = content.find(b"PK\1\2")
        place = start + draw(st.sampled_from([8, 10, 16, 20, 24, 28, 30, 34, 38, 42]))
        content[place : place + 4] = struct.pack("<I", draw(number) % 2**32)
    return bytes(content)


@st.composite
def torch_sequences(draw):
    """The layout before PyTorch 1.6: pickles one after the other, then storages."""
    keys = draw(sometimes(st.lists(name, max_size=3), st.sampled_from([["0"], ["1"], ["0", "1"]])))
    parts = [
        b"\x80\x02" + _integer(draw(sometimes(number, st.just(0x1950A86A20F9469CFC6C % 2**71), 10))) + b".",
        b"\x80\x02M\xe9\x03.",
        draw(sometimes(_pickles(), st.just(b"\x80\x02}."), 8)),
        draw(_pickles()),
        b"\x80\x02](" + b"".join(map(_text, keys)) + b"e.",
    ]
    parts[0] = draw(sometimes(st.just(parts[0]), st.just(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."), 10))
    for _ in keys:
        count = draw(sometimes(number, st.just(4)))
        parts.append(struct.pack("<Q", count % 2**64) + bytes(draw(sometimes(st.integers(0, 40), st.just(16)))))
    return b"".join(parts)


# --- safetensors

_SAFE_TYPES = ["F32", "F32", "F16", "BF16", "F64", "I8", "BOOL", "F8_E4M3", "C64", ""]


@st.composite
def safetensors_files(draw):
    header, end = {}, 0
    for key in draw(st.lists(name, max_size=4)):
        dimensions, kind = draw(shape), draw(st.sampled_from(_SAFE_TYPES))
        count = int(np.prod(dimensions, dtype=object)) if dimensions else 1
        size = count * {"F16": 2, "BF16": 2, "F64": 8, "I8": 1, "BOOL": 1}.get(kind, 4) if 0 <= count < 1000 else 8
        offsets = draw(sometimes(st.lists(number, max_size=3), st.just([end, end + size]), 8))
        end += size
        header[key] = {"dtype": kind, "shape": dimensions, "data_offsets": offsets}
        header[key] = draw(sometimes(anything | changed(header[key]), st.just(header[key]), 8))
    if draw(st.booleans()):
        header["__metadata__"] = draw(sometimes(anything, st.just({"format": "pt"})))
    text = json.dumps(header).encode()
    text = draw(sometimes(st.just(text[:-1] + b',"a":' + text + b"}"), st.just(text), 12))  # a name twice
    length = draw(sometimes(number, st.just(len(text)), 8))
    return struct.pack("<Q", length % 2**64) + text + bytes(draw(sometimes(st.integers(0, 90), st.just(end), 8)))


# --- YAML

_PLAIN = [
    "0x" + "f" * 9000,
    "1" + "0" * 9000,
    "1e999",
    ".nan",
    "2024-01-01",
    "2024-13-45",
    "190:20:30",
    "0b1_1",
    "~",
    "<<",
]
_TAGS = [
    "!!int",
    "!!float",
    "!!timestamp",
    "!!binary",
    "!!set",
    "!!omap",
    "!!python/name:os.system",
    "!!map",
    "!x",
    "!!str",
]


def _flow(node):
    """A node of YAML in flow style."""
    if isinstance(node, dict):
        return "{" + ", ".join(f"{key}: {value}" for key, value in node.items()) + "}"
    return "[" + ", ".join(node) + "]"


_keys = st.sampled_from(sorted(Config.model_fields)) | st.sampled_from(["base", "<<", "*b", "? x", "7", "'a b'"])
_scalar = (
    st.sampled_from(_PLAIN)
    | number.map(str)
    | word.map(lambda text: yaml.safe_dump(text.encode("utf-8", "replace").decode()).strip().splitlines()[0])
    | st.sampled_from(["0.5", "true", "resnet20", "*a", "*b"])
)
_node = st.recursive(
    _scalar | st.tuples(st.sampled_from(_TAGS), _scalar).map(" ".join),
    lambda inner: (
        st.lists(inner, max_size=12).map(_flow)
        | st.dictionaries(_keys, inner, max_size=3).map(_flow)
        | inner.map(lambda text: f"&a {text}")
        | st.tuples(inner, st.integers(1, 60)).map(lambda pair: "[" * pair[1] + pair[0] + "]" * pair[1])
    ),
    max_leaves=8,
)
_doublings = st.tuples(st.integers(1, 30), st.integers(1, 9), st.sampled_from(["[{}]", "{{<<: [{}]}}"])).map(
    lambda drawn: "".join(
        f"k{level}: &x{level} {drawn[2].format(', '.join([f'*x{level - 1}'] * drawn[1]))}\n"
        for level in range(1, drawn[0])
    )
)
_usual = st.sampled_from(
    ["lr: 0.5", "seed: 0x10", "sparsity: 9e-1", "nesterov: on", "ema_decay: &b 0.9", "data_path: *b"]
)
_lines = st.lists(sometimes(st.tuples(_keys, _node).map(": ".join), _usual, 2), max_size=5).map("\n".join)


def yaml_files():
    """One document; sometimes more, in other encodings, with aliases that double and double."""
    doubled = _doublings.map(lambda text: "k0: &x0 {a: 1}\n" + text)
    text = st.one_of(_lines, _lines, _lines, doubled, st.lists(_lines, max_size=3).map("\n---\n".join))
    return st.tuples(text, st.sampled_from(["utf-8", "utf-8", "utf-16", "latin-1"])).map(
        lambda pair: pair[0].encode(pair[1], "replace")
    )


# --- ONNX and MINDIR

_OPERATORS = [
    *("Relu", "Add", "Mul", "MatMul", "Conv", "MaxPool", "GlobalAveragePool", "Flatten", "Reshape", "Expand", "Tile"),
    *("ConstantOfShape", "Range", "Resize", "Pad", "Loop", "If", "Scan", "ReduceMean", "Softmax", "Concat", "Gather"),
    *(
        "OneHot",
        "Shape",
        "Identity",
        "Cast",
        "Nonsense",
        "EyeLike",
        "CumSum",
        "Transpose",
        "Constant",
        "Dropout",
        "Gemm",
    ),
]
_attribute = (
    st.lists(number, max_size=5)
    | number
    | st.sampled_from([0.5, "x", b"\xff"])
    | st.lists(st.integers(1, 3), min_size=2, max_size=2)
)
_tensors = ["images", "w", "s", "v", "t1", "t2", "t3", "", "none"]


@st.composite
def _initializer(draw, key):
    kind = draw(sometimes(st.sampled_from([TensorProto.STRING, 0, 16, 99]), st.just(TensorProto.FLOAT), 8))
    if key == "s":  # a shape, as that of the images
        tensor = helper.make_tensor(
            key, TensorProto.INT64, [2], draw(sometimes(st.tuples(number, number), st.just((0, -1))))
        )
    else:
        tensor = helper.make_tensor(key, TensorProto.FLOAT, [16, 2], np.ones(32))
    tensor.data_type = tensor.data_type if key == "s" else kind
    if draw(rarely(5)):
        tensor.ClearField("dims")
        tensor.dims.extend(draw(shape))
    if draw(rarely(12)):
        tensor.data_location = TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", draw(st.sampled_from(["/etc/passwd", "x", "../x"]))
    return tensor


@st.composite
def _onnx_node(draw, index):
    inputs = draw(st.lists(st.sampled_from(_tensors), min_size=1, max_size=3))
    output = draw(sometimes(st.sampled_from(_tensors), st.just(f"t{index}"), 8))
    attributes = st.dictionaries(
        st.sampled_from(
            ["axis", "axes", "kernel_shape", "pads", "strides", "group", "dilations", "value", "body", "perm", "to"]
        ),
        _attribute,
        max_size=2,
    )
    node = helper.make_node(draw(st.sampled_from(_OPERATORS)), inputs, [output])
    for key, value in draw(attributes).items():
        node.attribute.append(helper.make_attribute(key, value, attr_type=7 if value == [] else None))
    if node.op_type in ("Loop", "If", "Scan") or draw(rarely(20)):
        body = helper.make_graph([helper.make_node("Relu", ["w"], ["z"])], "body", [], [])
        node.attribute.append(helper.make_attribute(draw(st.sampled_from(["body", "then_branch"])), body))
    return node


def metadata():
    """Text by key, what export.py writes or nearly so."""
    values = sometimes(changed(INTERFACE._asdict()), st.just(INTERFACE._asdict()), 2)
    texts = values.map(lambda values: {f"rpg.{key}": json.dumps(value) for key, value in values.items()})
    return sometimes(texts.flatmap(lambda texts: changed(texts, word)), texts, 8)


def _put(add, texts):
    for key, value in texts.items():
        add(key=key.encode("utf-8", "replace").decode(), value=value.encode("utf-8", "replace").decode())


@st.composite
def onnx_files(draw):
    if draw(rarely(3)):
        nodes = [helper.make_node("Flatten", ["images"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["t1"])]
        last = "t1"
    else:
        count = draw(st.integers(1, 3))
        nodes, last = [draw(_onnx_node(index + 1)) for index in range(count)], f"t{count}"
    batch = draw(sometimes(number, st.just("batch"), 6))
    dimensions = [batch, *draw(sometimes(shape, st.just([1, 4, 4]), 8))]
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, dimensions)
    output = helper.make_tensor_value_info(draw(sometimes(st.sampled_from(_tensors), st.just(last), 10)), 1, None)
    keys = draw(sometimes(st.lists(st.sampled_from(["w", "s", "v"]), max_size=4), st.just(["w", "s", "v"])))
    graph = helper.make_graph(nodes, "g", [given], [output], [draw(_initializer(key)) for key in keys])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", draw(sometimes(number, st.just(13), 10)))])
    model.ir_version = 8
    _put(model.metadata_props.add, draw(metadata()))
    if draw(rarely(12)):
        function = model.functions.add()
        function.name, function.domain = draw(st.sampled_from(["Nonsense", "Relu"])), ""
        function.node.extend(nodes)
    return model.SerializeToString()


def mindir_files(content):
    """content: of a MINDIR file with an Interface."""
    return _mindir(content)


@st.composite
def _mindir(draw, content):
    model = ModelProto()
    model.ParseFromString(content)
    graph = model.graph
    if hasattr(model.user_info, "add"):
        del model.user_info[:]
        _put(model.user_info.add, draw(metadata()))
    else:
        model.user_info.clear()
        _put(lambda key, value: model.user_info.__setitem__(key, value), draw(metadata()))
    for _ in range(draw(sometimes(st.sampled_from([0, 2, 3]), st.just(1), 2))):
        draw(st.sampled_from(_MINDIR_CHANGES))(draw, model, graph)
    return model.SerializeToString()


def _drawn(draw, items):
    return items[draw(st.integers(0, len(items) - 1))]


def _another(draw, model, graph):
    """One part of the graph has the content of another."""
    items = draw(st.sampled_from([graph.node, graph.parameter, graph.input, graph.output, model.primitives]))
    if items:
        _drawn(draw, items).CopyFrom(_drawn(draw, items))


def _without(draw, model, graph):
    items = draw(st.sampled_from([graph.node, graph.parameter, graph.input, graph.output, model.primitives]))
    if items:
        del items[draw(st.integers(0, len(items) - 1))]


def _reads(draw, model, graph):
    node = _drawn(draw, graph.node)
    names = [node.name for node in graph.node] + [parameter.name for parameter in graph.parameter] + ["", "none"]
    if node.input:
        node.input[draw(st.integers(0, len(node.input) - 1))] = draw(st.sampled_from(names))


def _primitive(draw, model, graph):
    names = [primitive.op_type for primitive in model.primitives]
    others = ["PyExecute", "Custom", "TensorDump", "Nonsense", "", "Tile", "BroadcastTo", "Reshape", "Switch", "Return"]
    _drawn(draw, model.primitives).op_type = draw(st.sampled_from(names + others))


def _node_kind(draw, model, graph):
    kinds = [node.op_type for node in graph.node] + [
        "REF::none",
        "Constant",
        "Parameter",
        "",
        "REF::",
        "Switch",
        "call",
    ]
    _drawn(draw, graph.node).op_type = draw(st.sampled_from(kinds))


def _dimensions(draw, model, graph):
    tensor = _drawn(draw, graph.parameter)
    if draw(st.booleans()):
        del tensor.dims[:]
        tensor.dims.extend(draw(shape))
    else:
        tensor.data_type = draw(st.integers(0, 18))


def _values(draw, model, graph):
    tensor = _drawn(draw, graph.parameter)
    tensor.raw_data = draw(
        st.sampled_from([b"", tensor.raw_data[:-1], tensor.raw_data * 2, b"\xff" * len(tensor.raw_data)])
    )
    if draw(rarely(4)):
        tensor.external_data.location = "x"


def _numbers(draw, model, graph):
    """A number of a primitive: a kernel's size, a padding, an axis."""
    attributes = [each for primitive in model.primitives for each in primitive.attribute]
    attribute = _drawn(draw, attributes)
    for each in (attribute, *attribute.values):
        if each.ints:
            each.ints[0] = draw(number)
        elif each.HasField("i"):
            each.i = draw(number)


def _attribute_kind(draw, model, graph):
    _drawn(draw, [each for primitive in model.primitives for each in primitive.attribute]).type = draw(
        st.integers(0, 40)
    )


def _deep(draw, model, graph):
    inner = _drawn(draw, model.primitives).attribute.add()
    inner.name, inner.type = "a", 21
    for _ in range(draw(st.integers(1, 60))):
        inner = inner.values.add()
        inner.type = 21


def _inner_graph(draw, model, graph):
    (model.functions.add() if draw(st.booleans()) else graph.node[0].attribute.add().g).name = "f"


_MINDIR_CHANGES = [
    *(_another, _without, _reads, _primitive, _node_kind, _dimensions, _values, _numbers),
    *(_attribute_kind, _deep, _inner_graph),
]


# --- pictures


@cache
def _picture(kind):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)).save(file, kind)
    return file.getvalue()


def _chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@st.composite
def _pngs(draw):
    width, height = draw(st.tuples(number, number) | st.tuples(st.integers(1, 40), st.integers(1, 40)))
    depth, colour = draw(sometimes(st.tuples(small, small), st.sampled_from([(8, 2), (8, 0), (16, 0), (1, 0), (8, 6)])))
    header = struct.pack(">IIBBBBB", width % 2**32, height % 2**32, depth, colour, 0, 0, draw(st.integers(0, 2)))
    kinds = [b"zTXt", b"iCCP", b"tEXt", b"iTXt", b"tRNS", b"PLTE", b"pHYs", b"acTL", b"fcTL", b"eXIf", b"IDAT", b"sRGB"]
    bombs = [zlib.compress(bytes(size)) for size in (10, 500, 3_000_000)]
    data = st.sampled_from([b"", *bombs, *(b"a\0\0" + bomb for bomb in bombs)]) | st.binary(max_size=20)
    chunks = draw(st.lists(st.tuples(st.sampled_from(kinds), data), max_size=3))
    chunks.append((b"IDAT", draw(st.sampled_from(bombs))))
    body = b"".join(_chunk(*chunk) for chunk in chunks)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + body + _chunk(b"IEND", b"")


@st.composite
def _patched(draw):
    """A picture of a format of fixed places, some fields of its head changed."""
    content = bytearray(
        _picture(draw(st.sampled_from(["BMP", "GIF", "TIFF", "JPEG", "WEBP", "TGA", "PCX", "ICO", "DDS"])))
    )
    for _ in range(draw(st.integers(0, 3))):
        place, form = (
            draw(st.integers(2, min(len(content) - 8, 200))),
            draw(st.sampled_from(["<I", "<H", ">I", ">H", "B"])),
        )
        size = struct.calcsize(form)
        content[place : place + size] = struct.pack(form, draw(number) % 256**size)
    return bytes(content)


_texts = st.tuples(st.sampled_from(["P1", "P2", "P3", "P4", "P5", "P6", "P7", "Pf"]), number, number, number).map(
    lambda drawn: "{} {} {} {}\n".format(*drawn).encode() + bytes(500)
)


def pictures():
    return _pngs() | _patched() | _texts


KINDS = {
    "checkpoint": checkpoints,
    "state": states,
    "packed": lambda _: packed_files(),
    "pth": lambda _: torch_archives() | torch_sequences(),
    "safetensors": lambda _: safetensors_files(),
    "yaml": lambda _: yaml_files(),
    "onnx": lambda _: onnx_files(),
    "mindir": mindir_files,
    "picture": lambda _: pictures(),
}
