"""The package that `pip install .` makes: complete, and at work outside this folder under its own name."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_the_package_lists_every_folder_of_the_sources():
    listed = re.findall(r'^    "(mindspore_rpg[\w.]*)",$', (ROOT / "pyproject.toml").read_text(), flags=re.M)
    folders = sorted(path.parent.relative_to(ROOT / "src") for path in (ROOT / "src").rglob("__init__.py"))
    assert listed == [".".join(("mindspore_rpg", *folder.parts)) for folder in folders]


def installed_by_pip(folder):
    """Install the package into an empty folder, from a copy: building leaves files beside the sources."""
    copy, site = folder / "copy", folder / "site"
    copy.mkdir()
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__"))
    offline = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "install", *offline, "--target", site, copy], check=True)
    return site


@pytest.mark.slow
def test_an_installed_package_runs_the_document_and_knows_its_requirements(tmp_path):
    site = installed_by_pip(tmp_path)
    document = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    program = tmp_path / "program.py"
    program.write_text("\n".join(re.findall(r"```python\n(.*?)```", document, flags=re.S)), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, program],
        env={**os.environ, "PYTHONPATH": str(site)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "sparsity 98.0000 %" in done.stdout
    assert (tmp_path / "network.mindir").exists()
    metadata = next(site.glob("*.dist-info/METADATA")).read_text(encoding="utf-8")
    declared = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert metadata.count("Requires-Dist:") == len(declared)
    assert "Requires-Dist: numpy<2,>=1.21.6" in metadata
