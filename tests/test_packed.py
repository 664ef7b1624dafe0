"""The packed format: bit-exact, near the entropy, smaller than general compressors, and safe against any other file."""

import hashlib
import json
import lzma
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from src.export import packed
from src.export.formats import unpack_checkpoint
from src.export.packed import MAGIC, decode_gaps, encode_gaps, mask_bytes, pack, size_bound, unpack
from src.platform.errors import InputError
from src.weights.checkpoint import read_checkpoint, write_checkpoint

DESCRIPTION = {"model": {"name": "résnet"}, "numbers": [1, 2.5, None, 1e-300]}
SPECIAL = np.array([0x80000000, 1, 0x807FFFFF, 0x7F800000, 0xFF800000, 0x7FC12345, 0x7F812345, 0], np.uint32)


@pytest.fixture(scope="module")
def tensors():
    """One of each kind: sparse, dense and empty weights, special values, vectors, scalars, other types."""
    random = np.random.default_rng(0)
    sparse = random.standard_normal((64, 32, 3, 3)).astype(np.float32)
    sparse[random.random(sparse.shape) > 0.02] = 0
    return {
        "sparse.weight": sparse,
        "special.weight": SPECIAL.view(np.float32).reshape(2, 4),
        "zero.weight": np.zeros((40, 50), np.float32),
        "bn.gamma": random.standard_normal(64).astype(np.float32),
        "special.bias": SPECIAL.view(np.float32),
        "dense.weight": random.standard_normal((10, 64)).astype(np.float32),
        "empty": np.zeros((0, 3), np.float32),
        "scalar": np.float32(3).reshape(()),
        "step": np.array([7, -1], np.int64),
        "half": random.standard_normal((3, 2)).astype(np.float16),
        "flags": np.array([True, False]),
    }


@pytest.fixture
def file(tmp_path, tensors):
    path = tmp_path / "x.packed"
    path.write_bytes(pack(tensors, DESCRIPTION))
    return path


def test_every_bit_comes_back(file, tensors):
    unpacked, description = unpack(file)
    assert description == DESCRIPTION
    assert list(unpacked) == list(tensors)
    for name, tensor in tensors.items():
        assert (unpacked[name].dtype, unpacked[name].shape) == (tensor.dtype, tensor.shape)
        assert unpacked[name].tobytes() == tensor.tobytes(), name


@given(st.lists(st.one_of(st.just(0), st.integers(0, 2**32 - 1)), max_size=600))
def test_any_bits_come_back(tmp_path_factory, bits):
    path = tmp_path_factory.getbasetemp() / "any.packed"
    weight = np.array(bits, np.uint32).view(np.float32).reshape(1, -1)
    path.write_bytes(pack({"w": weight, "b": weight[0]}, {}))
    unpacked, _ = unpack(path)
    assert unpacked["w"].tobytes() == unpacked["b"].tobytes() == weight.tobytes()


def test_an_unpacked_checkpoint_is_the_same_file(pruned_resnet50, tmp_path):
    (tmp_path / "a.packed").write_bytes(pack(*read_checkpoint(pruned_resnet50)))
    unpack_checkpoint(tmp_path / "a.packed", tmp_path / "a.ckpt")
    assert (tmp_path / "a.ckpt").read_bytes() == pruned_resnet50.read_bytes()


def test_negative_zeros_and_nan_payloads_survive_the_way_through_files(tmp_path, tensors):
    write_checkpoint(tmp_path / "a.ckpt", {"special.weight": tensors["special.weight"]}, DESCRIPTION)
    (tmp_path / "a.packed").write_bytes(pack(*read_checkpoint(tmp_path / "a.ckpt")))
    unpack_checkpoint(tmp_path / "a.packed", tmp_path / "b.ckpt")
    assert (tmp_path / "b.ckpt").read_bytes() == (tmp_path / "a.ckpt").read_bytes()
    assert read_checkpoint(tmp_path / "b.ckpt")[0]["special.weight"].tobytes() == SPECIAL.tobytes()


@pytest.mark.parametrize("values", ["fp32", "fp16", "int8"])
def test_size_is_near_the_bound(pruned_resnet50, values):
    tensors, description = read_checkpoint(pruned_resnet50)
    size = len(pack(tensors, description, values))
    masks, total = size_bound(tensors, values)
    assert size <= 1.05 * total
    assert mask_bytes(tensors) <= 1.05 * masks


@pytest.mark.slow
def test_size_beats_general_compressors(pruned_resnet50):
    content = pruned_resnet50.read_bytes()
    size = len(pack(*read_checkpoint(pruned_resnet50)))
    assert size < 0.9 * len(lzma.compress(content, preset=9))
    assert size < 0.9 * len(zstandard.compress(content, 19))


def test_the_bound_is_that_of_the_binary_entropy():
    weight = np.zeros((10, 100), np.float32)
    weight[:, ::10] = 1  # density 0.1: H = 0.468996 bits
    masks, total = size_bound({"w": weight, "b": np.ones(5, np.float32)})
    assert masks == pytest.approx(1000 * 0.468996 / 8, rel=1e-5)
    assert total == pytest.approx(masks + 100 * 4 + 5 * 4)
    assert size_bound({"w": weight}, "int8")[1] == pytest.approx(masks + 100 + 10 * 4)


def test_half_precision_rounds_weights_and_nothing_else(tmp_path, tensors):
    finite = {name: tensor for name, tensor in tensors.items() if name != "special.weight"}
    path = tmp_path / "x.packed"
    path.write_bytes(pack(finite, DESCRIPTION, "fp16"))
    unpacked, _ = unpack(path)
    for name, tensor in finite.items():
        rounded = tensor.dtype == np.float32 and tensor.ndim > 1
        expected = tensor.astype(np.float16).astype(np.float32) if rounded else tensor
        assert unpacked[name].tobytes() == expected.tobytes(), name


def test_eight_bits_are_steps_of_each_output_channel_and_touch_nothing_else(tmp_path, tensors):
    finite = {name: tensor for name, tensor in tensors.items() if name != "special.weight"}
    finite["sparse.weight"][3] *= 1000  # a channel of its own scale
    path = tmp_path / "x.packed"
    path.write_bytes(pack(finite, DESCRIPTION, "int8"))
    unpacked, description = unpack(path)
    assert description == DESCRIPTION
    for name, tensor in finite.items():
        if tensor.dtype != np.float32 or tensor.ndim < 2 or not tensor.size:
            assert unpacked[name].tobytes() == tensor.tobytes(), name
            continue
        assert not unpacked[name][tensor == 0].any(), name
        for channel, found in zip(tensor, unpacked[name]):
            step = np.abs(channel).max() / 127
            assert np.abs(found - channel).max() <= 0.5001 * step, name
            whole = found / (step or 1)
            assert np.allclose(whole, np.rint(whole), atol=1e-3), name
            assert np.abs(found).max() == pytest.approx(np.abs(channel).max(), rel=1e-6)


def test_eight_bits_refuse_what_they_cannot_hold():
    with pytest.raises(InputError, match="values: a weight is not finite"):
        pack({"w": np.full((1, 1), np.inf, np.float32)}, {}, "int8")


def test_half_precision_refuses_what_it_cannot_hold():
    with pytest.raises(InputError, match="65504"):
        pack({"w": np.full((1, 1), 1e6, np.float32)}, {}, "fp16")
    with pytest.raises(InputError, match="complex64"):
        pack({"w": np.zeros((1, 1), np.complex64)}, {})


@pytest.mark.parametrize(
    ("positions", "size", "encoded"),
    [
        ([], 0, []),
        ([0], 1, [0]),
        ([0, 1, 2], 3, [0, 0, 0]),
        ([254], 255, [254]),
        ([255], 256, [255, 0]),
        ([3, 515], 516, [3, 255, 255, 1]),
    ],
)
def test_gaps(positions, size, encoded):
    assert encode_gaps(np.array(positions, np.int64)) == bytes(encoded)
    assert decode_gaps(bytes(encoded), len(positions), size).tolist() == positions
    if positions:
        with pytest.raises(ValueError, match="larger"):
            decode_gaps(bytes(encoded), len(positions), size - 1)
        with pytest.raises(ValueError, match="number"):
            decode_gaps(bytes(encoded), len(positions) + 1, size + 1)


@pytest.mark.parametrize("piece", [1, 2, 7, 1 << 20])
def test_gaps_are_decoded_in_pieces(piece, monkeypatch):
    monkeypatch.setattr(packed, "_PIECE", piece)
    random = np.random.default_rng(0)
    for density in (0.002, 0.1, 1):
        positions = np.flatnonzero(random.random(3000) < density)
        assert np.array_equal(decode_gaps(encode_gaps(positions), positions.size, 3000), positions)
        with pytest.raises(ValueError, match="larger"):
            decode_gaps(encode_gaps(positions), positions.size, int(positions[-1]))


@pytest.mark.parametrize("values", ["fp32", "int8"])
def test_unpacking_takes_a_small_multiple_of_the_weights(tmp_path, values):
    path = tmp_path / "x.packed"
    path.write_bytes(pack({"w": np.ones((1024, 2048), np.float32)}, {}, values))  # in which each weight is a gap
    tracemalloc.start()
    try:
        assert unpack(path)[0]["w"].all()
        assert tracemalloc.get_traced_memory()[1] < 8 * 4 * 1024 * 2048
    finally:
        tracemalloc.stop()


def test_a_thousand_damaged_files_are_refused(file):
    content = file.read_bytes()
    random = np.random.default_rng(0)
    damaged = [content[: len(content) * tenth // 10] for tenth in range(10)]
    while len(damaged) < 1000:
        copy = bytearray(content)
        for position in random.integers(len(content), size=random.integers(1, 9)):
            copy[position] ^= random.integers(1, 256)
        if copy != content:
            damaged.append(bytes(copy))
    for copy in damaged:
        file.write_bytes(copy)
        with pytest.raises(InputError, match=r"x\.packed: "):
            unpack(file)


def test_damage_under_a_valid_checksum_never_crashes(file, tensors):
    """Whoever alters a file can also renew its checksum; then it may unpack, but only to arrays of declared shape."""
    content = file.read_bytes()[:-32]
    random = np.random.default_rng(0)
    refused = 0
    for case in range(300):
        copy = bytearray(content if case % 10 else content[: random.integers(8, len(content))])
        for position in random.integers(8, len(copy), size=random.integers(1, 4)) if len(copy) > 8 else ():
            copy[position] ^= random.integers(1, 256)
        file.write_bytes(sign(bytes(copy)))
        try:
            unpacked, _ = unpack(file)
        except InputError:
            refused += 1
        else:
            assert sum(tensor.nbytes for tensor in unpacked.values()) <= sum(t.nbytes for t in tensors.values())
    assert refused > 150


HOSTILE = {
    "not an object": "[]",
    "no tensors": '{"values": "fp32"}',
    "negative": {"tensors": [["w", "float32", [-1, 4]]]},
    "fraction": {"tensors": [["w", "float32", [1.5, 4]]]},
    "bool": {"tensors": [["w", "float32", [True, 4]]]},
    "text": {"tensors": [["w", "float32", "44"]]},
    "two of a name": {"tensors": [["w", "float32", [2, 2]], ["w", "float32", [2, 2]]]},
    "name is no text": {"tensors": [[["w"], "float32", [2, 2]]]},
    "unknown type": {"tensors": [["w", "object", [2, 2]]]},
    "huge": {"tensors": [["w", "float32", [1 << 14, 1 << 14]]]},
    "huge and empty": {"tensors": [["w", "float32", [0, *[1 << 31] * 7]]]},
    "many dimensions": {"tensors": [["w", "float32", [1] * 40]]},
    "beyond 64 bits": {"tensors": [["w", "float32", [10**30]]]},
    "too many values": {"nonzeros": 5},
    "too few values": {"nonzeros": 3},
    "negative values": {"nonzeros": -1},
    "too many gaps": {"gaps": 5},
    "zeros beyond the file": {"tensors": [["w", "float32", [1 << 12, 1 << 13]]]},
    "no gaps": {"gaps": 0},
    "other precision": {"values": "fp16"},
    "eight bits": {"values": "int8"},
    "unknown precision": {"values": "fp8"},
    "precision is a list": {"values": ["fp32"]},
    "no description": {"description": None},
    "deep": '{"tensors": ' + "[" * 100_000,
    "bad unicode": b'{"\xff": 1}',
    "long number": '{"nonzeros": ' + "9" * 5000 + "}",
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_headers_are_refused_in_little_memory(tmp_path, change):
    content = pack({"w": np.ones((2, 2), np.float32)}, {})
    sections = packed._Sections(content[len(MAGIC) : -32])
    header = json.loads(sections.read(most=1 << 20))
    text = json.dumps({**header, **change}) if isinstance(change, dict) else change
    text = text if isinstance(text, bytes) else text.encode()
    path = tmp_path / "x.packed"
    path.write_bytes(sign(MAGIC + packed._encode_section(text) + bytes(sections.body)))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"x\.packed: not a valid packed file"):
            unpack(path)
        assert tracemalloc.get_traced_memory()[1] < 30e6
    finally:
        tracemalloc.stop()


def test_devices_and_pipes_are_not_read():
    with pytest.raises(InputError, match="/dev/zero: cannot read the packed file: a device or a pipe"):
        unpack("/dev/zero")


def test_a_section_cannot_expand_beyond_its_length(tmp_path):
    bomb = lzma.compress(bytes(50_000_000), lzma.FORMAT_RAW, filters=packed._LZMA)
    path = tmp_path / "x.packed"
    path.write_bytes(sign(MAGIC + packed._FRAME.pack(len(bomb), 1 << 23) + bomb))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="does not have its length"):
            unpack(path)
        assert tracemalloc.get_traced_memory()[1] < 30e6
    finally:
        tracemalloc.stop()


def test_bytes_after_the_last_section_are_refused(file):
    file.write_bytes(sign(file.read_bytes()[:-32] + b"more"))
    with pytest.raises(InputError, match="bytes after"):
        unpack(file)


def test_other_files_and_versions_are_refused(tmp_path, file):
    for content in (b"", b"x", b"PK\x03\x04" * 20, MAGIC):
        (tmp_path / "other").write_bytes(content)
        with pytest.raises(InputError):
            unpack(tmp_path / "other")
    file.write_bytes(sign(MAGIC[:-1] + b"\x02" + file.read_bytes()[len(MAGIC) : -32]))
    with pytest.raises(InputError, match="format version 2, not 1"):
        unpack(file)
    with pytest.raises(InputError, match="cannot read the packed file: No such file"):
        unpack(tmp_path / "none")


def test_a_folder_that_takes_no_files_is_named(file):
    with pytest.raises(InputError, match=r"file_name: cannot write /proc/none\.ckpt: "):
        unpack_checkpoint(file, Path("/proc/none.ckpt"))


def sign(content):
    return content + hashlib.sha256(content).digest()
