"""Damaged and hostile .sparse files, and many rounds of one, under AddressSanitizer and UBSan; other processors."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from sparse_reference import mixed_graph, random_graph, residual_graph, run
from test_sparse_runtime import INTERFACE, present_isas

from src.export.sparse.file import to_bytes

ROOT = Path(__file__).resolve().parent.parent
GRAPHS = {
    "mixed": mixed_graph()._replace(interface=INTERFACE),
    "windows": random_graph(3),
    "more": random_graph(11),
    "shortcuts": residual_graph(np.random.default_rng(0), 4, 9),
}


def build(*options, compiler=None):
    """Run the build script; its folder."""
    words = ["bash", ROOT / "scripts" / "build_runtime.sh", *options]
    environment = {**os.environ, "CC": compiler} if compiler else None
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    return ROOT / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def fuzz():
    return build("--sanitize") / "fuzz"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for name, graph in GRAPHS.items():
        (folder / f"{name}.sparse").write_bytes(to_bytes(graph))
    return sorted(folder.iterdir())


@pytest.mark.slow
def test_mutated_files_neither_crash_nor_hang(fuzz, files):
    done = subprocess.run([fuzz, "20000", *files], capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    loaded = int(done.stdout.split()[0])
    assert 2000 < loaded < 18000  # mutations reach both the checks and what lies behind them


@pytest.mark.slow
def test_no_leak_in_ten_thousand_rounds(fuzz, files):
    done = subprocess.run([fuzz, "--rounds", "10000", files[0]], capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout, done.stderr) == (0, "10000 of 10000 loaded\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("name", GRAPHS)
def test_outputs_under_sanitizers(fuzz, files, tmp_path, name):
    compare(GRAPHS[name], [fuzz.with_name("rpg_sparse")], tmp_path)


@pytest.mark.slow
def test_aarch64_gives_the_same_outputs(tmp_path):
    missing = [name for name in ("aarch64-linux-gnu-gcc", "qemu-aarch64") if not shutil.which(name)]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed (Debian: gcc-aarch64-linux-gnu, qemu-user)")
    program = build("--target", "aarch64-linux-gnu") / "rpg_sparse"
    for graph in (*GRAPHS.values(), *map(random_graph, range(20, 30)), mixed_graph(1, 40)):
        for threads in (1, 3):
            emulator = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"]
            compare(graph, [*emulator, program], tmp_path, ["--threads", str(threads)])


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_compilers_give_the_same_outputs(tmp_path, compiler):
    if not shutil.which(compiler):
        pytest.skip(f"{compiler} not installed")
    program = build("--output", tmp_path, compiler=compiler) / "rpg_sparse"
    for isa in present_isas(tmp_path):
        for graph in (*GRAPHS.values(), mixed_graph(1, 40)):
            for threads in (1, 3):
                compare(graph, [program], tmp_path, ["--threads", str(threads), "--isa", isa])


def compare(graph, program, folder, options=()):
    """Run a program of the runtime and compare what it prints with numpy."""
    path = folder / "a.sparse"
    path.write_bytes(to_bytes(graph))
    images = np.random.default_rng(2).standard_normal((2, *graph.input_shape)).astype(np.float32)
    expected = np.stack([run(graph, image) for image in images])
    done = subprocess.run([*program, path, *options], input=images.tobytes(), capture_output=True, check=True)
    outputs = np.loadtxt(done.stdout.decode().splitlines(), ndmin=2)
    assert abs(outputs - expected).max() < 1e-5 * abs(expected).max()


def test_the_build_script_says_what_is_missing(tmp_path):
    script = ROOT / "scripts" / "build_runtime.sh"
    for words, message in (
        (["--target", "riscv64-none"], "error: no C compiler riscv64-none-gcc found"),
        (["--fast"], "error: unknown option --fast"),
    ):
        done = subprocess.run(["bash", script, *words], capture_output=True, text=True)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert message in done.stderr
