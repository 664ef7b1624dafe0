"""The sparse runtime against plain numpy, on every instruction set of this processor and with several threads."""

import struct
import subprocess
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sparse_reference import head, mixed_graph, random_graph, random_weight, residual_graph, run

from src.export.deployed import Interface
from src.export.sparse.file import Axis, Graph, Operation, decode_gaps, encode_gaps, from_bytes, to_bytes
from src.export.sparse.runtime import LIBRARY, SparseModel, load_library
from src.platform.errors import InputError

INTERFACE = Interface((3, 12, 12), None, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), False, True, 0.875, (*"abcdeé", ""))


@pytest.fixture(scope="module")
def isas(tmp_path_factory):
    return present_isas(tmp_path_factory.mktemp("isas"))


def present_isas(folder):
    """The instruction sets that this processor has."""
    path = folder / "a.sparse"
    path.write_bytes(to_bytes(mixed_graph()))

    def present(isa):
        try:
            SparseModel(path, isa=isa).close()
        except InputError as error:
            return f"no kernels for {isa}" not in str(error)
        return True

    return [isa for isa in ("sse2", "avx2", "avx512", "neon") if present(isa)]


def check(graph, path, isas, threads=(1, 3), images=2):
    """Compare the runtime with numpy on several images in a row: what one leaves behind must not reach the next."""
    path.write_bytes(to_bytes(graph))
    batch = np.random.default_rng(1).standard_normal((images, *graph.input_shape)).astype(np.float32)
    expected = np.stack([run(graph, image) for image in batch])
    assert isas
    assert abs(expected).max() > 0
    for isa in isas:
        for count in threads:
            with SparseModel(path, count, isa) as model:
                outputs = model(batch)
            deviation = abs(outputs - expected).max() / max(abs(expected).max(), 1e-30)
            assert deviation < 1e-5, (isa, count, deviation)


@pytest.mark.parametrize("size", [12, 40])
def test_a_network_of_every_operation(tmp_path, isas, size):
    check(mixed_graph(size, size), tmp_path / "a.sparse", isas, (1, 2, 3, 4))


@pytest.mark.parametrize("seed", range(40))
def test_convolutions_of_any_window(tmp_path, isas, seed):
    check(random_graph(seed), tmp_path / "a.sparse", isas)


@pytest.mark.parametrize(("width", "size"), [(4, 9), (40, 48), (6, 100)])
def test_shortcuts_strip_by_strip(tmp_path, isas, width, size):
    """Sums overwrite their inputs, and strips of layers follow each other, in maps smaller and larger than a strip."""
    graph = residual_graph(np.random.default_rng(size), width, size)
    check(graph, tmp_path / "a.sparse", isas, (1, 2, 4), 1)


@pytest.mark.parametrize("kernels", [(7, 2, 1), (1, 3, 7)])
def test_strided_convolutions_share_the_phases_of_a_map(tmp_path, isas, kernels):
    """In either order of reach, and strip by strip: none may read rows that are not there yet."""
    random = np.random.default_rng(0)
    axis = Axis(3, 1, 1, 1)
    operations = [Operation("convolution", (0,), window=(axis, axis), weight=random_weight(random, (12, 3, 3, 3), 0.4))]
    for kernel in kernels:
        axis = Axis(kernel, 2, (kernel - 1) // 2, (kernel - 1) // 2)
        weight = random_weight(random, (4, 12, kernel, kernel), 0.2)
        inputs = (1,) if len(operations) == 1 else (1, len(operations))
        operations.append(Operation("convolution", inputs, window=(axis, axis), weight=weight))
    operations.append(head(random, len(operations), (4, 32, 32)))
    check(Graph((3, 64, 64), operations), tmp_path / "a.sparse", isas, (1, 2, 4), 1)


def test_channels_that_nothing_reads(tmp_path, isas):
    graph = residual_graph(np.random.default_rng(0), 16, 20)
    weight = graph.operations[2].weight.copy()
    weight[:, 3:] = 0
    graph.operations[2] = graph.operations[2]._replace(weight=weight)
    check(graph, tmp_path / "a.sparse", isas)


def test_pools_of_one_pixel(tmp_path, isas):
    """As at the end of VGG on small images."""
    random = np.random.default_rng(0)
    pools = [Operation(kind, (0,), window=(Axis(1), Axis(1))) for kind in ("average_pool", "max_pool")]
    both = Operation("concatenate", (1, 2), window=())
    check(Graph((40, 1, 1), [*pools, both, head(random, 3, (80, 1, 1))]), tmp_path / "a.sparse", isas)


def test_layers_without_a_weight(tmp_path, isas):
    graph = mixed_graph()
    empty = [op if op.weight is None else op._replace(weight=np.zeros_like(op.weight)) for op in graph.operations]
    check(graph._replace(operations=empty), tmp_path / "a.sparse", isas)


def test_a_file_reads_back():
    graph = mixed_graph()._replace(interface=INTERFACE)
    read = from_bytes(to_bytes(graph))
    assert read.input_shape == graph.input_shape
    assert Interface(**read.interface) == INTERFACE
    assert len(read.operations) == len(graph.operations)
    for ours, other in zip(graph.operations, read.operations):
        same = ("kind", "inputs", "activation", "window", "groups", "pad_counts")
        assert [getattr(ours, name) for name in same] == [getattr(other, name) for name in same]
        assert np.allclose((ours.low, ours.high), (other.low, other.high))
        for name in ("weight", "bias"):
            assert getattr(ours, name) is None or np.array_equal(getattr(ours, name), getattr(other, name))


@given(st.lists(st.integers(0, 2**20), unique=True, max_size=50))
def test_gaps_come_back(places):
    assert decode_gaps(encode_gaps(np.sort(places).astype(np.int64))).tolist() == sorted(places)


def test_a_file_is_smaller_than_its_weights_with_short_offsets():
    weight = random_weight(np.random.default_rng(0), (128, 64, 3, 3), 0.02)
    graph = Graph((64, 7, 7), [Operation("convolution", (0,), window=(Axis(3, 1, 1, 1),) * 2, weight=weight)])
    assert len(to_bytes(graph)) < 0.9 * 6 * np.count_nonzero(weight)


def rewritten(content, at, layout, *values):
    """A file with other bytes at a place, and the checksum that fits them."""
    content = bytearray(content)
    struct.pack_into("<" + layout, content, at % len(content), *values)
    return sealed(bytes(content))


def sealed(content):
    """A file with the length and checksum of what it holds."""
    content = content[:12] + struct.pack("<I", len(content)) + content[16:]
    return content[:8] + struct.pack("<I", zlib.crc32(content[12:])) + content[12:]


FIRST = 40  # where the first operation begins in a file without a description
CASES = {
    "empty": (lambda file: b"", "not a .sparse file"),
    "noise": (lambda file: b"x" * 100, "not a .sparse file"),
    "version": (lambda file: file[:7] + b"\2" + file[8:], "version 2 is not known"),
    "cut": (lambda file: file[:-1], "bytes instead of"),
    "bit": (lambda file: file[:50] + bytes([file[50] ^ 1]) + file[51:], "checksum"),
    "longer": (lambda file: sealed(file + b"x"), "1 bytes too many"),
    "shorter": (lambda file: sealed(file[:-1]), "too short"),
    "image": (lambda file: rewritten(file, 16, "I", 0), "is not possible"),
    "size": (lambda file: rewritten(file, 20, "I", 1 << 20), "is not possible"),
    "operations": (lambda file: rewritten(file, 28, "H", 0), "operations"),
    "names": (lambda file: rewritten(file, 32, "I", 3), "names of the classes"),
    "kind": (lambda file: rewritten(file, FIRST, "B", 9), "operation 0 does not have a known kind"),
    "activation": (lambda file: rewritten(file, FIRST + 1, "B", 7), "known activation"),
    "flags": (lambda file: rewritten(file, FIRST + 2, "B", 4), "known flags"),
    "inputs": (lambda file: rewritten(file, FIRST + 3, "B", 3), "1 to 2 inputs, not 3"),
    "order": (lambda file: rewritten(file, FIRST + 4, "H", 1), "inputs that come before it"),
    "channels": (lambda file: rewritten(file, FIRST + 6, "I", 1 << 17), "channels"),
    "groups": (lambda file: rewritten(file, FIRST + 10, "I", 2), "groups that divide"),
    "count": (lambda file: rewritten(file, FIRST + 14, "I", 1 << 30), "no more weights than fit"),
    "kernel": (lambda file: rewritten(file, FIRST + 22, "B", 0), "a kernel, stride and padding that fit"),
    "padding": (lambda file: rewritten(file, FIRST + 24, "B", 200), "a kernel, stride and padding that fit"),
    "weight": (lambda file: rewritten(file, FIRST + 32, "f", np.nan), "finite weights"),
    "gap": (lambda file: rewritten(file, -1, "B", 255), "well-formed gaps"),
}


@pytest.mark.parametrize("case", CASES)
def test_every_number_of_a_file_is_checked(tmp_path, case):
    weight = np.zeros((4, 3, 3, 3), np.float32)
    weight[:, 1, 1, 1] = 1
    graph = Graph((3, 3, 3), [Operation("convolution", (0,), window=(Axis(3), Axis(3)), weight=weight)])
    path, (change, message) = tmp_path / "a.sparse", CASES[case]
    content = to_bytes(graph)
    path.write_bytes(content)
    SparseModel(path).close()
    path.write_bytes(change(content))
    with pytest.raises(InputError, match=message):
        SparseModel(path)


@pytest.mark.parametrize(("kernel", "message"), [(1, "memory"), (255, "multiply-adds")])
def test_a_file_may_not_ask_for_any_memory_or_time(tmp_path, kernel, message):
    path = tmp_path / "a.sparse"
    axis = Axis(kernel, 1, kernel // 2, kernel // 2)
    weight = np.ones((60000 if kernel == 1 else 1, 1, kernel, kernel), np.float32)
    layer = Operation("convolution", (0,), window=(axis, axis), weight=weight)
    pool = Operation("average_pool", (1,), window=(Axis(255, 255), Axis(255, 255)))
    path.write_bytes(to_bytes(Graph((1, 255, 255) if kernel == 1 else (1, 9000, 9000), [layer, pool])))
    with pytest.raises(InputError, match=message):
        SparseModel(path)


def test_what_cannot_be_loaded(tmp_path):
    path = tmp_path / "a.sparse"
    path.write_bytes(to_bytes(mixed_graph()))
    with pytest.raises(InputError, match="No such file"):
        SparseModel(tmp_path / "none.sparse")
    with pytest.raises(InputError, match=r"not a \.sparse file"):
        SparseModel(tmp_path)
    with pytest.raises(InputError, match="threads: between 1 and 64"):
        SparseModel(path, 65)
    with pytest.raises(InputError, match="no kernels for mmx"):
        SparseModel(path, isa="mmx")


def test_probabilities_are_those_of_the_logits(tmp_path):
    graph = mixed_graph()
    path = tmp_path / "a.sparse"
    path.write_bytes(to_bytes(graph._replace(operations=graph.operations[:-1])))
    images = np.random.default_rng(0).standard_normal((2, 3, 12, 12)).astype(np.float32)
    with SparseModel(path) as model:
        logits = model(images)
        powers = np.exp(logits - logits.max(1, keepdims=True))
        assert np.allclose(model(images, probabilities=True), powers / powers.sum(1, keepdims=True), atol=1e-6)
        assert model.dense_work > model.work > 0


def test_the_program_prints_outputs(tmp_path):
    load_library()
    (tmp_path / "a.sparse").write_bytes(to_bytes(mixed_graph()))
    images = np.random.default_rng(0).standard_normal((2, 3, 12, 12)).astype(np.float32)
    words = [LIBRARY.with_name("rpg_sparse"), tmp_path / "a.sparse"]
    done = subprocess.run(words, input=images.tobytes(), capture_output=True, check=True)
    with SparseModel(tmp_path / "a.sparse") as model:
        assert np.allclose(np.loadtxt(done.stdout.decode().splitlines()), model(images), atol=1e-6)
    timed = subprocess.run([*words, "--repeat", "3"], input=images.tobytes(), capture_output=True, check=True)
    assert b"ms of CPU time" in timed.stdout
    failed = subprocess.run([words[0], tmp_path / "none"], capture_output=True, text=True)
    assert (failed.returncode, failed.stderr.count("\n")) == (2, 1)
    assert "No such file" in failed.stderr


def test_many_more_threads_than_cores(tmp_path):
    """Threads that wait fall asleep, and are woken: with a lost signal the program would never end."""
    load_library()
    graph = residual_graph(np.random.default_rng(0), 32, 48)
    (tmp_path / "a.sparse").write_bytes(to_bytes(graph))
    images = np.random.default_rng(1).standard_normal((20, 3, 48, 48)).astype(np.float32)
    words = [LIBRARY.with_name("rpg_sparse"), tmp_path / "a.sparse", "--threads"]
    done = [
        subprocess.run([*words, str(threads)], input=images.tobytes(), capture_output=True, check=True, timeout=60)
        for threads in (1, 16)
    ]
    one, many = (np.loadtxt(run.stdout.decode().splitlines()) for run in done)
    assert np.allclose(one, many, atol=1e-5)


def test_the_library_is_small():
    load_library()
    assert LIBRARY.stat().st_size < 100_000
