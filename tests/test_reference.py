"""The recorded vectors of the released implementation, through the program that others call."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PREFIX = HERE / "data" / "rpg_reference"


def compare(prefix):
    return subprocess.run([sys.executable, HERE / "check_reference.py", prefix], capture_output=True, text=True)


def test_all_recorded_vectors_are_reproduced():
    done = compare(PREFIX)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("72 compared, 0 mismatches") == 2
    assert "96 compared, 0 mismatches" in done.stdout  # 24 updates of four layers
    assert done.stdout.endswith("\n0 mismatches\n")


def test_a_changed_vector_is_noticed(tmp_path):
    shutil.copy(f"{PREFIX}.npz", tmp_path / "changed.npz")
    reference = json.loads(Path(f"{PREFIX}.json").read_text())
    reference["rank"][7]["loss"] += 1e-4
    reference["mask_updates"][5]["layer_grown"][1] += 1
    (tmp_path / "changed.json").write_text(json.dumps(reference))
    done = compare(tmp_path / "changed")
    assert done.returncode == 1
    assert "rank 7: loss" in done.stdout
    assert "mask0_5 layer 1: mask" in done.stdout
