"""Files that are no files, that say too much of themselves, and that hold nonsense: one reader per kind refuses them.

Every case is a file that once was taken, led to a traceback, or took more memory or time than there is.
"""

import io
import json
import os
import pickle
import re
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
from safetensors.numpy import save_file

from src.config.files import read_yaml
from src.config.keys import resolve
from src.data.cifar import read_binary
from src.data.images import central_part, read_part
from src.export.deployed import Interface
from src.models import build_model
from src.platform.errors import InputError
from src.platform.files import read_regular
from src.weights.checkpoint import load_weights, read_any_checkpoint, write_checkpoint, write_network
from src.weights.naming import from_torch, identify
from src.weights.pickles import read_pickle
from src.weights.pretrained import read_weights
from src.weights.trained import load_trained

ARCHITECTURE = {"name": "resnet20", "num_classes": 10, "in_channels": 1}


def refuses(message, function, *arguments, memory=50e6):
    """The function raises an InputError of one line, in little memory."""
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=message) as error:
            function(*arguments)
        assert tracemalloc.get_traced_memory()[1] < memory
    finally:
        tracemalloc.stop()
    assert len(str(error.value)) < 1000


# --- files that are none


@pytest.fixture
def pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def test_only_regular_files_are_read(tmp_path, pipe):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_bytes(b"12345")
    cases = {
        pipe: "a device or a pipe",
        "/dev/zero": "a device or a pipe",
        tmp_path: "Is a directory",
        tmp_path / "none": "No such file",
        tmp_path / "loop": "symbolic links",
        tmp_path / ("x" * 300): "name too long",
        "a\0b": "null",
        "": "No such file",
        tmp_path / "file": "5 bytes; such a file has at most 4",
    }
    for path, message in cases.items():
        with pytest.raises(InputError, match=f"key: .*{message}"):
            read_regular(path, "key", 4)
    assert read_regular(tmp_path / "file", "key", 5) == b"12345"


@pytest.mark.parametrize("reader", [read_yaml, read_any_checkpoint, read_weights, load_trained])
def test_every_reader_refuses_devices_and_pipes(reader, pipe):
    for path in (pipe, pipe.with_name("pipe.safetensors"), "/dev/zero"):
        if str(path).endswith("safetensors"):
            os.rename(pipe, path)
        refuses("a device or a pipe", reader, path)


# --- YAML


def laugh(levels, width, line):
    """Lists of lists, or keys of keys, each naming the one before `width` times."""
    lines = [line(f"a{level}", [f"*a{level - 1}"] * width if level else ["1"]) for level in range(levels)]
    return "\n".join(lines)


YAMLS = {
    "more than 20 aliases": "lr: 1\n" + laugh(9, 9, lambda name, items: f"k{name}: &{name} [{', '.join(items)}]"),
    "aliases": "k: &a0 {x: 1}\n"
    + "\n".join(f"k{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 9)),
    "bytes; such a file has at most": "# " + "x" * 200_000,
    "more than 20 levels": "a: " + "[" * 5000,
    "is not valid YAML: .*month": "lr: 2024-13-45\n",
    "is not valid YAML: Exceeds|lr: ": "lr: 1" + "0" * 5000 + "\n",
    "seed: .*thousands of digits|seed: .*(large|less|exceed)": "seed: 0x" + "f" * 20_000 + "\n",
    "lr: .*, not datetime": "lr: 2024-01-01\n",
    "base: .* is not the name": "base: [a]\n",
    r"base: cannot read|cannot read /dev/zero: a device": "base: /dev/zero\n",
    "cannot read .*symbolic links": "base: loop.yaml\n",
    "unknown key": "? " + "x" * 50_000 + "\n: 1\n",
    "data_path: .*at most 4000": "data_path: " + "x" * 50_000 + "\n",
    "is not valid YAML": "lr: !!timestamp x\n",
    "is not valid YAML: .*": "lr: !!int ''\n",
}


@pytest.mark.parametrize(("message", "text"), YAMLS.items(), ids=range(len(YAMLS)))
def test_hostile_yaml(message, text, tmp_path):
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "c.yaml").write_text(text)
    refuses(message, lambda: resolve(read_yaml(tmp_path / "c.yaml"), where="c.yaml"))


def test_a_few_aliases_are_taken(tmp_path):
    (tmp_path / "c.yaml").write_text("lr: &rate 0.5\nema_decay: *rate\n")
    assert read_yaml(tmp_path / "c.yaml") == {"lr": 0.5, "ema_decay": 0.5}


def test_a_chain_of_bases_ends(tmp_path):
    for index in range(30):
        (tmp_path / f"{index}.yaml").write_text(f"base: {index + 1}.yaml\n")
    refuses("is the 21th of a chain", read_yaml, tmp_path / "0.yaml")


# --- checkpoints


@pytest.fixture(scope="module")
def network():
    return build_model(**ARCHITECTURE)


@pytest.fixture(scope="module")
def content(network):
    return {parameter.name: parameter.asnumpy() for parameter in network.get_parameters()}


DESCRIPTION = {"model": ARCHITECTURE, "config": {}, "image_shape": [1, 8, 8]}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("conv1.weight", np.nan, "conv1.weight has values that are not finite"),
        ("classifier.bias", -np.inf, "classifier.bias has values that are not finite"),
        ("layer1.0.bn1.moving_mean", np.inf, "moving_mean has values that are not finite"),
        ("layer1.0.bn1.moving_variance", -1e-3, "moving_variance has negative variances"),
    ],
)
def test_values_that_no_training_leaves(network, content, name, value, message, tmp_path):
    tensors = {key: array.copy() for key, array in content.items()}
    tensors[name].flat[-1] = value
    write_checkpoint(tmp_path / "x.ckpt", tensors, DESCRIPTION)
    before = network.parameters_dict()[name].asnumpy().copy()
    with pytest.raises(InputError, match=message):
        load_trained(tmp_path / "x.ckpt")
    with pytest.raises(InputError, match=message):
        load_weights(network, tensors, "x")
    assert np.array_equal(network.parameters_dict()[name].asnumpy(), before)


def test_doubles_beyond_single_precision(network, content):
    tensors = {**content, "classifier.bias": np.full(10, 1e300)}
    with pytest.raises(InputError, match=r"classifier\.bias has values that are not finite, or beyond float32"):
        load_weights(network, tensors, "x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": {"tail_energy": 2}}, "configuration: tail_energy: "),
        ({"config": {"batch_size": 10**12}}, "configuration: batch_size: "),
        ({"config": {"eval_batch_size": 10**12}}, "configuration: eval_batch_size: "),
        ({"config": {"data_path": 7}}, "configuration: data_path: "),
        ({"config": {"data_path": "x" * 5000}}, "configuration: data_path: "),
        ({"image_shape": [3, 8, 8]}, "images of 3 colours for a network of 1"),
        ({"image_shape": [1, 10**6, 8]}, "image_shape.1: "),
        ({"model": {**ARCHITECTURE, "num_classes": 2**20}}, "too small for num_classes 1048576"),
        ({"model": {**ARCHITECTURE, "width_factor": 16}}, "too small for width_factor 16"),
        ({"model": {**ARCHITECTURE, "num_classes": "10"}}, "model.num_classes"),
        ({"model": None}, "model: "),
        ({"model": {**ARCHITECTURE, "arguments": [1]}}, "model.arguments: "),
        ({"data": {"mean": [0.5], "std": [0.5], "crop": 1.0, "size": 3}}, "data.size: "),
        ({"data": {"mean": [0.5], "std": ["0.5"], "crop": 1.0}}, "data.std.0: "),
        ({"data": {"mean": [float("nan")], "std": [0.5], "crop": 1.0}}, "data.mean.0: "),
        ({"data": {"mean": [0.5], "std": [0.5], "crop": 0.0}}, "data.crop: "),
        ({"data": {"mean": [0.5] * 3, "std": [0.5] * 3, "crop": 1.0}}, "not of 1 channels"),
    ],
)
def test_descriptions_of_nonsense(content, change, message, tmp_path):
    write_checkpoint(tmp_path / "x.ckpt", content, {**DESCRIPTION, **change})
    refuses(message, load_trained, tmp_path / "x.ckpt")


def checkpoint_of(*entries):
    """The bytes of a checkpoint of MindSpore's, without a checksum: (name, dimensions, type, content)."""
    from mindspore.train.checkpoint_pb2 import Checkpoint

    message = Checkpoint()
    for name, dimensions, kind, data in entries:
        entry = message.value.add()
        entry.tag = name
        entry.tensor.dims.extend(dimensions)
        entry.tensor.tensor_type = kind
        entry.tensor.tensor_content = data
    return message.SerializeToString()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([("a", [2], "Float32", bytes(8)), ("a", [2], "Float32", bytes(8))], "holds tensor a twice"),
        ([("a", [1 << 40], "Float32", bytes(8))], "a does not match its declared type and shape"),
        ([("a", [-1], "Float32", bytes(8))], "a does not match"),
        ([("a", [1 << 62, 1 << 62], "Float32", b"")], "a does not match"),
        ([("a", [1] * 100, "Float32", bytes(4))], "a does not match"),
        ([("a", [8], "Float8E4M3FN", bytes(8))], "a does not match"),
        ([("a", [1], "Parameter", bytes(8))], "a does not match"),
        ([("a", [3], "Float32", bytes(10))], "a does not match"),
    ],
)
def test_tensors_that_are_not_what_they_say(entries, message, tmp_path):
    (tmp_path / "x.ckpt").write_bytes(checkpoint_of(*entries))
    refuses(message, read_any_checkpoint, tmp_path / "x.ckpt")


def test_upper_halves_of_floats_are_widened(tmp_path):
    """Of single numbers too, on which numpy had raised."""
    halves = struct.pack("<HH", 0x3F80, 0xC000)
    (tmp_path / "x.ckpt").write_bytes(checkpoint_of(("a", [2], "BFloat16", halves), ("b", [], "BFloat16", halves[2:])))
    pickled = tensor_pickle("a", size=")", stride=")", offset="K\x01")
    torch_zip(tmp_path / "x.pth", pickled.replace(b"FloatStorage", b"BFloat16Storage"), {"0": halves})
    tensors, _ = read_any_checkpoint(tmp_path / "x.ckpt")
    assert (tensors["a"].dtype, tensors["b"].dtype) == (np.float32, np.float32)
    assert (tensors["a"].tolist(), tensors["b"].tolist()) == ([1, -2], -2)
    assert read_weights(tmp_path / "x.pth")["a"].tolist() == -2


def test_a_description_of_megabytes_is_refused(tmp_path):
    write_checkpoint(tmp_path / "x.ckpt", {}, {"a": "x" * (5 << 20)})
    with pytest.raises(InputError, match="description is damaged"):
        read_any_checkpoint(tmp_path / "x.ckpt")


# --- PyTorch's files and safetensors


def torch_zip(path, pickled, storages=(), **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for key, data in dict(storages).items():
            archive.writestr(f"archive/data/{key}", data)
    return path


def tensor_pickle(name="'a'", size="(K\x02t", offset="K\x00", stride="(K\x01t", count=1):
    """A state dict of views of storage 0 in single instructions, as PyTorch would write it: `count` of them."""
    storage = "(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x02tQ"
    tensor = f"ctorch._utils\n_rebuild_tensor_v2\n({storage}{offset}{size}{stride}\x89NtR"
    items = "".join(f"V{name}{index or ''}\n{tensor}s" for index in range(count))
    return f"\x80\x02}}{items}.".encode("latin-1")


def nested(depth):
    return b"\x80\x02" + b")" + b"\x85" * depth


PICKLES = {
    "not a PyTorch|no state dict": b"\x80\x02]q\x00" + b"(h\x00h\x00lq\x00" * 60 + b".",  # lists of the list before
    "no state dict": b"\x80\x02}q\x00X\x05\x00\x00\x00modelh\x00s.",  # which is its own model
    "no state dict .*": b"\x80\x02}r\xff\xff\xff\xff.",  # four thousand million numbers
    "not a PyTorch .*": b"\x80\x02}" + nested(200_000)[2:] + b"Ns" + b"R.",  # a key that cannot be hashed
    "no state dict in .*": b"\x80\x02}" + nested(200_000)[2:] + b"Ns.",
    "not a PyTorch .*longer|is compressed, or too large": b"\x80\x02" + b"N0" * (5 << 20) + b"}.",
    "name of a tensor is no text": tensor_pickle().replace(b"V'a'\n", b"K\x01"),
    "more than 8 dimensions": tensor_pickle(size="(" + "K\x01" * 100 + "t", stride="(" + "K\x01" * 100 + "t"),
    "leaves its storage": tensor_pickle(size="(J\xff\xff\xff\x7ft"),
    "too large for the file": tensor_pickle(count=2000, size="(M\x00\x04t", stride="(K\x01t"),
    "instruction that PyTorch does not write": b"\x80\x02\x82\x01.",
}


@pytest.mark.parametrize(("message", "pickled"), PICKLES.items(), ids=range(len(PICKLES)))
def test_hostile_pickles(message, pickled, tmp_path):
    torch_zip(tmp_path / "x.pth", pickled, {"0": bytes(4096)})
    refuses(message, read_weights, tmp_path / "x.pth")


def test_the_machine_reads_what_python_writes():
    value = {"a": [1, 2.5, None, True, "ü", b"bytes", -(2**70)], ("b",): 1, "c": ((), (1,), (1, 2, 3, 4)), 7: {"d": []}}
    expected = {key: item for key, item in value.items() if key != ("b",)}  # nothing of PyTorch's has such keys
    for protocol in range(6):
        file = io.BytesIO(pickle.dumps(value, protocol) + b"rest")
        found = read_pickle(file, 1000)
        if protocol < 3:  # bytes were written as a call then
            found["a"][5] = b"bytes"
        assert found == expected, protocol
        assert file.read() == b"rest"


def test_an_archive_of_several_disks_is_refused(tmp_path):
    """Python raises an exception where it is asked whether that is an archive."""
    locator = b"PK\x06\x07" + struct.pack("<LQL", 1, 0, 2)
    (tmp_path / "x.pth").write_bytes(tensor_pickle() + locator + b"PK\x05\x06" + bytes(18))
    with pytest.raises(InputError, match=r"not a PyTorch checkpoint, or a damaged one .*multiple disks"):
        read_weights(tmp_path / "x.pth")


@pytest.mark.parametrize(("compression", "taken"), [(zipfile.ZIP_STORED, True), (zipfile.ZIP_DEFLATED, False)])
def test_archives_are_not_expanded(compression, taken, tmp_path):
    path = torch_zip(tmp_path / "x.pth", tensor_pickle(), {"0": bytes(8)}, compression=compression)
    if taken:
        assert {name: array.tolist() for name, array in read_weights(path).items()} == {"'a'": [0, 0]}
    else:
        refuses("is compressed", read_weights, path)


@pytest.mark.parametrize("field", [20, 24], ids=["compressed", "size"])
def test_archives_that_declare_gigabytes(field, tmp_path):
    """Of which zipfile would ask the system before it reads."""
    path = torch_zip(tmp_path / "x.pth", tensor_pickle(), {"0": bytes(8)})
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\1\2") + field
    content[place : place + 4] = struct.pack("<I", 2**31 - 1)
    path.write_bytes(content)
    refuses("is compressed, or too large", read_weights, path)


@pytest.mark.parametrize(
    "change",
    [{"classifier.weight": np.float32(1)}, {"classifier.weight": np.ones(3)}, {"conv1.weight": np.ones(3)}],
    ids=["scalar", "vector", "stem"],
)
def test_layers_of_other_dimensions(content, change):
    with pytest.raises(InputError, match="not a ResNet or VGG"):
        identify({name: np.asarray(array) for name, array in {**content, **change}.items()})


def test_biases_do_not_spread_over_means():
    tensors = {f"features.1.{kind}": np.ones(4) for kind in ("weight", "bias", "running_mean", "running_var")}
    tensors.update({"features.0.weight": np.ones((4, 1, 3, 3)), "features.0.bias": np.ones((4, 1))})
    assert from_torch(tensors)["features.1.moving_mean"].shape == (4,)


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}',
        b"[" * 100_000,
        b'{"a":7}',
    ],
)
def test_hostile_safetensors(header, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    refuses("not a safetensors file", read_weights, tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", 90 << 20) + bytes(8))
    refuses(re.escape("a header of 94,371,840 bytes"), read_weights, tmp_path / "x.safetensors")


def test_what_is_well_is_taken(network, content, tmp_path):
    write_network(tmp_path / "x.ckpt", network, DESCRIPTION)
    save_file(content, tmp_path / "x.safetensors")
    for name in ("x.ckpt", "x.safetensors"):
        found = read_weights(tmp_path / name)
        assert all(np.array_equal(found[key], array) for key, array in content.items())
    assert load_trained(tmp_path / "x.ckpt").image_shape == (1, 8, 8)


# --- pictures, and what exported files say of themselves


def png(width, height):
    """A PNG file's beginning, which declares a size and has nothing behind it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore")  # Pillow's, which programs do not show
@pytest.mark.parametrize(
    ("width", "height", "message"),
    [
        (100_000, 1, "100000 x 1 pixels, of which no network sees"),
        (1, 100_000, "1 x 100000 pixels, of which no network sees"),
        (10_000, 10_000, "10000 x 10000 pixels, more than the 89,478,485 of Pillow's limit"),
        (100_000, 100_000, "images: cannot read"),
    ],
)
def test_pictures_that_say_they_are_huge(width, height, message, tmp_path):
    (tmp_path / "x.png").write_bytes(png(width, height))
    refuses(message, read_part, tmp_path / "x.png", 3, (224, 224), central_part((224, 224), 0.875), "images")


def test_pictures_and_records_are_regular_files(pipe):
    refuses("images: cannot read .*a device", read_part, pipe, 3, (8, 8), central_part((8, 8), 1), "images")
    pipe.rename(pipe.with_name("test_batch.bin"))
    refuses("data_path: .*a device", read_binary, pipe.parent, "none", ["test_batch.bin"], 1, 10)


INTERFACE = Interface((3, 8, 8), 2, (1.0, 2.0, 3.0), (1.0, 2.0, 3.0), False, True, 0.875, ("a", "b"))


def test_metadata_comes_back():
    for interface in (INTERFACE, INTERFACE._replace(batch_size=None, normalized=True)):
        assert Interface.from_metadata(interface.to_metadata()) == interface


@pytest.mark.parametrize(
    "change",
    [
        {"classes": ["a", "a"]},
        {"classes": []},
        {"classes": [1, 2]},
        {"classes": "ab"},
        {"std": [0, 1, 1]},
        {"std": [1, 1]},
        {"std": [float("nan"), 1, 1]},
        {"mean": [float("inf"), 1, 1]},
        {"mean": 7},
        {"crop": 0},
        {"crop": 2},
        {"crop": 1e-9},
        {"crop": None},
        {"batch_size": 0},
        {"batch_size": 10**12},
        {"batch_size": 60_000, "image_shape": [3, 512, 512]},
        {"image_shape": [3, 8]},
        {"image_shape": [2, 8, 8]},
        {"image_shape": [3, 10**6, 10**6]},
        {"image_shape": [3, 0, 8]},
        {"normalized": "yes"},
        {"softmax": 1},
        {"classes": ["x" * (5 << 20)]},
    ],
    ids=str,
)
def test_metadata_of_nonsense(change):
    metadata = {**INTERFACE.to_metadata(), **{f"rpg.{key}": json.dumps(value) for key, value in change.items()}}
    with pytest.raises(ValueError, match=r"."):
        Interface.from_metadata(metadata)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "1" * 5000, "\0"])
def test_metadata_that_is_no_json(text):
    with pytest.raises(ValueError, match=r"."):
        Interface.from_metadata({**INTERFACE.to_metadata(), "rpg.classes": text})
