"""The versions that set-up installs, and the command that tests the corners of those promised; both with stand-ins for
Python, pip and uv, which note what they are told."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from src.platform.environment import SUPPORTED_MINDSPORE, SUPPORTED_PYTHON, unsupported

ROOT = Path(__file__).resolve().parent.parent
LISTS = ("requirements.txt", "requirements-test.txt", "constraints.txt")
PYTHONS = [f"3.{minor}" for minor in range(SUPPORTED_PYTHON[0][1], SUPPORTED_PYTHON[1][1] + 1)]

PYTHON = """#!/usr/bin/env bash
case $2 in
    venv) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    pip) echo "$*" >>installed ;;
esac
"""
UV = """#!/usr/bin/env bash
if [ "$1" = venv ]; then
    [ "${*: -2:1}" != 3.8 ] || exit 2
    mkdir -p .venv/bin && cp "$STAND_INS/corner_python" .venv/bin/python
else
    echo "$*" >.venv/asked
    [[ "$*" != *mindspore==2.99.0* ]]
fi
"""
CORNER_PYTHON = """#!/usr/bin/env bash
if [ "$1" = -c ]; then
    echo "3.9.1 | 2.7.1"
elif [ -e breaks ]; then
    printf '%s\\n' "$*" "1 failed, 7 passed in 0.10s"
    exit 1
else
    printf '%s\\n' "$*" "8 passed in 0.10s"
fi
"""


def declared(name):
    """The requirements of a list, in its order."""
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line]


def write_program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A copy of the lists and the two scripts, with the stand-ins beside it."""
    folder = tmp_path / "tree"
    for name in (*LISTS, "scripts/setup.sh", "scripts/common.sh", "tests/check_versions.sh"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    write_program(tmp_path / "python", PYTHON)
    write_program(tmp_path / "corner_python", CORNER_PYTHON)
    monkeypatch.setenv("PYTHON", str(tmp_path / "python"))
    monkeypatch.setenv("STAND_INS", str(tmp_path))
    return folder


def run(script, *words):
    return subprocess.run(["bash", script, *words], capture_output=True, text=True)


@pytest.mark.parametrize("python", PYTHONS)
def test_every_requirement_has_one_version_on_every_python(python):
    environment = {"python_version": python, "python_full_version": f"{python}.7", "sys_platform": "linux"}
    pins = {}
    for pin in declared("constraints.txt"):
        if pin.marker is None or pin.marker.evaluate(environment):
            assert pin.name not in pins, f"two versions of {pin.name}"
            pins[pin.name] = re.fullmatch(r"==([\w.]+)", str(pin.specifier)).group(1)
    for requirement in declared("requirements.txt") + declared("requirements-test.txt"):
        assert requirement.specifier.contains(pins[requirement.name]), requirement
    assert unsupported((*map(int, python.split(".")), 7), pins["mindspore"], pins["numpy"]) is None


def test_the_mindspore_that_the_list_allows_is_what_the_program_accepts():
    (allowed,) = (str(line.specifier) for line in declared("requirements.txt") if line.name == "mindspore")
    low, high = (".".join(map(str, version)) for version in SUPPORTED_MINDSPORE)
    assert set(allowed.split(",")) == {f">={low}", f"<{high}"}


def test_set_up_installs_the_tested_versions_and_again_only_when_a_list_has_changed(tree):
    for changed, installs in ((None, 1), (None, 1), ("constraints.txt", 2), ("requirements.txt", 3), (None, 3)):
        if changed:
            (tree / changed).open("a").write("# changed\n")
        done = run(tree / "scripts" / "setup.sh")
        assert done.returncode == 0, done.stderr
        lines = (tree / "installed").read_text().splitlines()
        assert len(lines) == installs
        assert lines[-1].endswith(" -rrequirements.txt -c constraints.txt")


def check_corners(tree, *words):
    """Run the command in the tree as a repository whose .venv is complete."""
    subprocess.run(["git", "init", "-q", tree], check=True)
    (tree / ".gitignore").write_text(".venv/\n.versions/\nignored\n")
    write_program(tree / ".venv/bin/python", PYTHON)
    write_program(tree / ".venv/bin/uv", UV)
    for name in LISTS:
        shutil.copy(tree / name, tree / ".venv")
    return run(tree / "tests" / "check_versions.sh", *words)


def test_corners_get_the_versions_they_ask_for_and_what_git_would_take(tree):
    for name in ("new", "ignored"):
        (tree / name).touch()
    done = check_corners(tree, "3.9-lowest", "3.11-pinned", "3.10-2.8.0", "--", "-m", "", "tests/test_x.py")
    assert done.returncode == 0, done.stderr
    rows = [
        f"| {corner} | 3.9.1 | 2.7.1 | 8 passed in 0.10s |" for corner in ("3.9-lowest", "3.11-pinned", "3.10-2.8.0")
    ]
    assert done.stdout.splitlines()[2:] == rows
    corners = tree / ".versions"
    asked = {folder.name: (folder / ".venv" / "asked").read_text().strip() for folder in corners.iterdir()}
    assert asked["3.9-lowest"].endswith("-r requirements.txt -r requirements-test.txt --resolution lowest-direct")
    assert asked["3.11-pinned"].endswith("-r requirements-test.txt --constraint constraints.txt")
    assert asked["3.10-2.8.0"].endswith("mindspore==2.8.0 --constraint .venv/others.txt")
    kept, others = ((corners / "3.10-2.8.0" / name).read_text() for name in ("constraints.txt", ".venv/others.txt"))
    assert set(kept.splitlines()) - set(others.splitlines()) == set(re.findall("^mindspore==.*", kept, flags=re.M))
    assert (corners / "3.9-lowest/new").exists()
    assert not (corners / "3.9-lowest/ignored").exists()
    assert (
        (corners / "3.9-lowest/pytest.log").read_text().startswith("-m pytest -p no:cacheprovider -m  tests/test_x.py")
    )


def test_the_tested_versions_are_renewed_before_the_corners_use_them(tree):
    done = check_corners(tree, "--renew", "3.9-pinned")
    assert done.returncode == 0, done.stderr
    told = (tree / ".venv" / "asked").read_text()
    assert told.startswith("pip compile --quiet --universal --python-version 3.9 --upgrade ")
    assert told.endswith(" requirements.txt requirements-test.txt -o constraints.txt\n")
    assert "--custom-compile-command bash tests/check_versions.sh --renew " in told


@pytest.mark.parametrize(
    ("corner", "says"),
    [
        ("3.8-pinned", "not run: no Python 3.8"),
        ("3.10-2.99.0", "failed: cannot be installed"),
        ("3.12-pinned", "failed: 1 failed, 7 passed in 0.10s (exit code 1)"),
    ],
)
def test_a_corner_that_does_not_pass_is_said_and_fails_the_command(tree, corner, says):
    (tree / "breaks").touch()
    done = check_corners(tree, corner)
    assert done.returncode == 1
    (row,) = done.stdout.splitlines()[2:]
    assert row.startswith(f"| {corner} |")
    assert row.endswith(f" {says} |")


def test_what_is_no_corner_is_bad_input(tree):
    done = check_corners(tree, "3.9-newest")
    assert done.returncode == 2
    assert done.stderr.startswith("error: 3.9-newest is no corner; ")
    assert not (tree / ".versions").exists()
