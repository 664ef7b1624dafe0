"""The plan of the house: who may import whom, and what docs/architecture.md says of rooms and files."""

import html
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

from scripts import draw_rooms

ROOT = Path(__file__).resolve().parent.parent
ROOMS = [room for layer in draw_rooms.layers() for room in layer]
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_rooms_import_downwards_only(capsys):
    assert lint_imports(str(ROOT / "pyproject.toml"), no_cache=True) == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "line", "arrow"),
    [
        ("platform/files.py", "from ..weights import checkpoint", "src.platform.files -> src.weights.checkpoint"),
        ("training/state.py", "from ..run import folder", "src.training.state -> src.run.folder"),
        ("pruning/masks.py", "import mindspore", "src.pruning.masks -> mindspore"),
        ("run/plan.py", "import train", "src.run.plan -> train"),
    ],
)
def test_an_import_that_is_not_allowed_is_named(file, line, arrow, tmp_path):
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "train.py"):
        shutil.copy(ROOT / name, tmp_path)
    with open(tmp_path / "src" / file, "a", encoding="utf-8") as source:
        source.write(f"{line}\n")
    command = [sys.executable, "-c", "import sys; from importlinter.cli import lint_imports_command as run; run()"]
    done = subprocess.run([*command, "--no-cache"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert arrow in done.stdout


def test_every_room_is_a_layer_and_stands_in_the_page():
    places = {path.stem for path in (ROOT / "src").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert places - {"__init__"} == set(ROOMS)
    for room in ROOMS:
        assert re.search(rf"`{room}(/|\.py)`", TEXT), f"docs/architecture.md says nothing of {room}"


def test_files_that_the_page_names_are_in_their_rooms():
    rows = [line.split("|")[1:4] for line in TEXT.splitlines() if re.match(r"\| `\w+/`", line)]
    named = [
        (room, file) for first, *rest in rows for room in re.findall(r"`(\w+)/`", first) for file in files_in(rest)
    ]
    assert len(named) > 20
    for room, file in named:
        assert (ROOT / "src" / room / file).is_file(), f"{file} is not in src/{room}"


def files_in(cells):
    """Names of Python files in some cells of a table."""
    return re.findall(r"`(\w+\.py)`", " ".join(cells))


def test_paths_that_the_page_names_exist():
    paths = re.findall(r"`((?:src|tests|scripts)/[\w/]+\.py)`", TEXT)
    assert len(paths) > 10
    for path in paths:
        assert (ROOT / path).is_file(), path


def test_the_picture_is_that_of_the_code():
    assert draw_rooms.describe() in html.unescape(draw_rooms.PICTURE.read_text(encoding="utf-8")), (
        "draw it again: python scripts/draw_rooms.py"
    )
