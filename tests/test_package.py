"""The package that `pip install .` makes: complete, and at work outside this folder under its own name."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import src

ROOT = Path(__file__).resolve().parent.parent


def installed_by_pip(folder):
    """Install the package into an empty folder, from a copy: building leaves files beside the sources."""
    copy, site = folder / "copy", folder / "site"
    copy.mkdir()
    for name in ("pyproject.toml", "setup.py", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("src", "config"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    offline = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "install", *offline, "--target", site, copy], check=True)
    return site


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder in which the package is installed."""
    return installed_by_pip(tmp_path_factory.mktemp("installed"))


def test_the_package_is_whole(site):
    package = site / "mindspore_rpg"
    for folder, inside in (("src", package), ("config", package / "recipes")):
        files = [path.relative_to(ROOT / folder) for path in (ROOT / folder).rglob("*.*") if path.suffix != ".pyc"]
        assert files
        assert not [file for file in files if not (inside / file).is_file()]
    (metadata,) = site.glob("*.dist-info/METADATA")
    assert f"\nVersion: {src.__version__}\n" in metadata.read_text(encoding="utf-8")


def test_commands_of_the_package_find_their_recipes(site, tmp_path):
    done = subprocess.run(
        [sys.executable, site / "bin" / "rpg-train", "--dry_run"],
        env={**os.environ, "PYTHONPATH": str(site)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "sparsity" in done.stdout
    commands = {path.name for path in (site / "bin").iterdir()}
    assert commands == {"rpg-train", "rpg-eval", "rpg-export", "rpg-infer", "rpg-convert-torch"}


@pytest.mark.slow
def test_an_installed_package_runs_the_document_and_knows_its_requirements(site, tmp_path):
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
    assert "Requires-Dist: numpy<2,>=1.20" in metadata
