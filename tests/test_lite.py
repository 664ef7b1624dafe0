"""MindSpore Lite: files made and run by the real converter and runtime, its options, and what it refuses."""

import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from src.data import digits
from src.export import formats
from src.export.deployed import describe_interface
from src.programs import convert_lite
from src.weights.trained import load_trained
from tests.in_process import run

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "convert_lite.sh"


@pytest.fixture(scope="module")
def exported(trained_resnet20, tmp_path_factory):
    """A checkpoint, and a function giving its file of a format."""
    folder = tmp_path_factory.mktemp("lite")
    ckpt, _ = trained_resnet20
    interface = describe_interface(load_trained(ckpt), None)
    for name in ("ONNX", "MINDIR"):
        formats.export_graph(ckpt, name, folder / f"net{formats.SUFFIXES[name]}", interface)
    return ckpt, lambda name: folder / f"net{formats.SUFFIXES[name]}"


@pytest.mark.slow
def test_files_of_the_real_mindspore_lite(exported, tmp_path):
    ckpt, file = exported

    def convert(model, *words):
        done = subprocess.run(["bash", SCRIPT, model, *map(str, words)], capture_output=True, text=True, check=False)
        if "no Python 3.7 found" in done.stderr or "No matching distribution" in done.stderr:
            pytest.skip("no Python 3.7 or no mindspore-lite 2.0.0 for it here")
        return done

    sizes = {}
    for bits in (32, 16, 8):
        path = tmp_path / f"net{bits}.ms"
        done = convert(file("ONNX"), "--weight_bits", bits, "--ckpt", ckpt, "--file_name", path)
        assert done.returncode == 0, done.stderr
        sizes[bits] = path.stat().st_size
        if bits == 8:  # a newer runtime that loads it would be good news: then this test is to compare it too
            assert "not compared: the wheel's runtime cannot load quantised weights" in done.stdout
        else:
            assert "the same class for 64 of 64 test images" in done.stdout
    onnx = file("ONNX").stat().st_size
    assert 0.9 * onnx < sizes[32] < 1.1 * onnx
    assert 0.4 * onnx < sizes[16] < 0.6 * onnx
    assert sizes[8] < 0.08 * onnx  # 98 % zeros: below the quarter that 8 bits alone give

    done = convert(file("MINDIR"), "--file_name", tmp_path / "mindir.ms")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "error: model: MindSpore Lite refuses it: This software can only support the maximum mind ir" in done.stderr
    assert not (tmp_path / "mindir.ms").exists()


@pytest.mark.parametrize(
    ("bits", "options"),
    [(32, []), (16, ["--fp16=on"]), (8, ["--configFile="])],
)
def test_an_installed_converter_is_called_with_its_options(exported, tmp_path, monkeypatch, bits, options):
    converter = tmp_path / "converter_lite"
    converter.write_text(
        '#!/bin/sh\nprintf "%s\\n" "$@" > "$(dirname "$0")/words"\n'
        'for word; do case $word in --outputFile=*) echo x > "${word#*=}.ms";; '
        '--configFile=*) cp "${word#*=}" "$(dirname "$0")/quant.cfg";; esac; done\n'
    )
    converter.chmod(0o755)
    monkeypatch.setenv("CONVERTER_LITE", str(converter))
    words = ["--weight_bits", bits, "--file_name", tmp_path / "net.ms"]
    answer = run("src.programs.convert_lite", exported[1]("ONNX"), *words)
    assert (answer.code, answer.stderr) == (0, "")
    assert "not compared" in answer.stdout
    said = (tmp_path / "words").read_text().splitlines()
    assert said[:2] == ["--fmk=ONNX", f"--modelFile={exported[1]('ONNX')}"]
    assert [word for word in said[3:] if not any(word.startswith(option) for option in options)] == []
    assert len(said) == 3 + len(options)
    assert (tmp_path / "net.ms").read_text() == "x\n"
    if bits == 8:
        assert "quant_type=WEIGHT_QUANT\nbit_num=8\n" in (tmp_path / "quant.cfg").read_text()


def test_what_cannot_be_converted_ends_in_one_line(exported, tmp_path, monkeypatch):
    model = exported[1]("ONNX")
    monkeypatch.setenv("CONVERTER_LITE", "/bin/false")
    (tmp_path / "there.ms").write_text("precious")
    for words, message in (
        ([tmp_path / "none.onnx"], "model: cannot read"),
        ([model, "--file_name", tmp_path / "x.bin"], "file_name: .*does not end in .ms"),
        ([model, "--file_name", tmp_path / "there.ms"], "file_name: .*there.ms exists"),
        ([model, "--file_name", tmp_path / "new.ms"], "model: MindSpore Lite refuses it"),
    ):
        answer = run("src.programs.convert_lite", *words)
        assert (answer.code, len(answer.stderr.splitlines())) == (2, 1)
        assert re.search(message, answer.stderr)
    assert os.listdir(tmp_path) == ["there.ms"]
    assert (tmp_path / "there.ms").read_text() == "precious"
    monkeypatch.delenv("CONVERTER_LITE")
    assert "CONVERTER_LITE" in run("src.programs.convert_lite", model).stderr


def test_the_images_that_are_compared_are_test_images(exported):
    interface = describe_interface(load_trained(exported[0]), None, normalize=True)
    images, labels = convert_lite.compared_images(interface, exported[0])
    pixels, expected = digits.arrays("test")
    assert np.array_equal(labels, expected[:64])
    assert np.abs(images - pixels[:64].transpose(0, 3, 1, 2)).max() < 1e-3
    assert convert_lite.compared_images(interface, None)[0].shape == images.shape


def test_outputs_that_differ_too_much_are_an_error():
    expected = np.float32([[1, 2], [3, 1]])
    line = convert_lite.compare("x", 32, expected, expected + np.float32(1e-5), np.array([1, 1]))
    assert "the same class for 2 of 2 test images, 1 of them right" in line
    with pytest.raises(RuntimeError, match="differ by"):
        convert_lite.compare("x", 32, expected, expected + np.float32(0.1), None)
