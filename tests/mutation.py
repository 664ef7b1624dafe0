"""Mutation testing: python tests/mutation.py [FILE...] puts small mistakes into files, and says which no test noticed.

The files and the tests that have to notice are in pyproject.toml, [tool.mutation]; the mistakes are cosmic-ray's
(`pip install cosmic-ray`). Works on a copy; takes minutes per file. Prints what survived as diffs; exits 1 if any did.
"""

import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import toml  # comes with cosmic-ray

ROOT = Path(__file__).resolve().parent.parent
PYTEST = "python -B -m pytest -q -x -p no:cacheprovider --hypothesis-seed=0"


def test_command(plain, others):
    """The command that has to fail on a mutant, cheapest tests first."""
    parts = [f"{PYTEST} --noconftest -p tests.plain {' '.join(plain)}"] if plain else []
    parts += [f"{PYTEST} {' '.join(others)}"] if others else []
    return f"bash -c {shlex.quote(' && '.join(parts))}"


def mutate(file, settings, folder):
    """Run all mutants of a file in the copy of the project; returns (work item, result) of each that ran."""
    config = {
        "module-path": file,
        "timeout": float(settings["seconds"]),
        "excluded-modules": [],
        "test-command": test_command(**settings["files"][file]),
        "distributor": {"name": "local"},
        "filters": {"operators-filter": {"exclude-operators": settings["exclude-operators"]}},
    }
    (folder / "mutation.toml").write_text(toml.dumps({"cosmic-ray": config}))
    for program in ("cosmic-ray init mutation.toml", "cr-filter-operators", "cosmic-ray exec mutation.toml"):
        words = [*program.split(), "session.sqlite", *(["mutation.toml"] if program.startswith("cr-") else [])]
        subprocess.run(words, cwd=folder, check=True)
    dumped = subprocess.run(["cosmic-ray", "dump", "session.sqlite"], cwd=folder, check=True, stdout=subprocess.PIPE)
    (folder / "session.sqlite").unlink()
    results = (json.loads(line) for line in dumped.stdout.splitlines())
    return [(item, result) for item, result in results if result["worker_outcome"] != "skipped"]


def main():
    """Mutate the files that are named, or all of the settings."""
    settings = toml.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutation"]
    files = sys.argv[1:] or list(settings["files"])
    survived = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, folder / path)
        for file in files:
            subprocess.run(shlex.split(test_command(**settings["files"][file])), cwd=folder, check=True)
            results = mutate(file, settings, folder)
            alive = [result["diff"] for _, result in results if result["test_outcome"] == "survived"]
            print(f"{file}: {len(results)} mutants, {len(results) - len(alive)} noticed, {len(alive)} survived")
            print("\n".join(alive), flush=True)
            survived += len(alive)
    raise SystemExit(survived > 0)


if __name__ == "__main__":
    main()
