"""Checkpoint files: what goes in comes out, MindSpore reads them, and damage never passes."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from src.platform import files
from src.platform.errors import InputError
from src.weights.checkpoint import load_weights, read_checkpoint, write_checkpoint, write_network

TENSORS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "scalar": np.float32(3).reshape(()),
    "bytes": np.arange(5, dtype=np.uint8),
    "step": np.array([7], np.int32),
    "half": np.ones((2, 1), np.float16),
}
DESCRIPTION = {"model": {"name": "résnet"}, "numbers": [1, 2.5, None]}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "x.ckpt"
    write_checkpoint(path, TENSORS, DESCRIPTION)
    return path


def test_round_trip(file):
    tensors, description = read_checkpoint(file)
    assert description == DESCRIPTION
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == TENSORS[name].dtype
        assert np.array_equal(tensor, TENSORS[name])


def test_mindspore_sees_the_tensors_and_nothing_else(file):
    loaded = ms.load_checkpoint(str(file), crc_check=True)
    assert loaded.keys() == TENSORS.keys()
    assert np.array_equal(loaded["a.weight"].asnumpy(), TENSORS["a.weight"])


def test_every_truncation_and_every_flipped_byte_is_refused(file):
    content = file.read_bytes()
    for length in range(len(content)):
        file.write_bytes(content[:length])
        with pytest.raises(InputError):
            read_checkpoint(file)
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0x55
        file.write_bytes(damaged)
        with pytest.raises(InputError):
            read_checkpoint(file)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 100, b"PK\x03\x04" + b"x" * 50])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "x.ckpt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.ckpt"):
        read_checkpoint(path)


def test_a_checkpoint_from_elsewhere_is_refused(tmp_path):
    ms.save_checkpoint(nn.Dense(2, 2), str(tmp_path / "other.ckpt"))
    with pytest.raises(InputError, match="no description"):
        read_checkpoint(tmp_path / "other.ckpt")


def test_a_failing_write_leaves_the_old_file_and_no_litter(file, monkeypatch):
    before = file.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_checkpoint(file, {"a": np.zeros(3, np.float32)}, {})
    assert file.read_bytes() == before
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]


def test_weights_must_fit_the_network(tmp_path):
    write_network(tmp_path / "x.ckpt", nn.Dense(3, 2), {})
    tensors, _ = read_checkpoint(tmp_path / "x.ckpt")
    network = nn.Dense(3, 2)
    load_weights(network, tensors, "x.ckpt")
    assert np.array_equal(network.weight.asnumpy(), tensors["weight"])
    with pytest.raises(InputError, match=r"x\.ckpt: does not fit the network: weight is \(2, 3\), not \(2, 4\)"):
        load_weights(nn.Dense(4, 2), tensors, "x.ckpt")
    with pytest.raises(InputError, match="missing bias"):
        load_weights(network, {"weight": tensors["weight"]}, "x.ckpt")
    with pytest.raises(InputError, match="unknown mask"):
        load_weights(network, {**tensors, "mask": tensors["bias"]}, "x.ckpt")
