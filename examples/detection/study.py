"""What pruning costs YOLOv8-nano on the shapes: every method with every seed, and a table.

usage: python examples/detection/study.py [--methods dense gmp rpg] [--seeds 0 1 2] [--report_only]

A finished run is a line of results.jsonl beside this file; what stands there is not run again, and a run that was
stopped goes on where it was. One run at a time, on one core.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.config.files import read_yaml
from src.platform.command_line import Parser
from src.platform.errors import InputError, run_program
from src.platform.files import append_line

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
RESULTS = FOLDER / "results.jsonl"
CONFIG = FOLDER / "config" / "shapes_nano.yaml"
METHODS = ("dense", "gmp", "gap", "rpg")


def main():
    """Train what is missing, and print the table."""
    parser = Parser(__doc__.partition("\n")[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["dense", "gmp", "rpg"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--report_only", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    results = read_results(RESULTS)
    if not arguments.report_only:
        make_data()
        for seed in arguments.seeds:
            for method in arguments.methods:
                if not any(line["method"] == method and line["seed"] == seed for line in results):
                    results.append(train(method, seed))
                    append_line(RESULTS, json.dumps(results[-1]))
    print(format_table(results))


def make_data():
    """The shapes of the configuration, if they are not there."""
    folder = ROOT / read_yaml(CONFIG)["data_path"]
    if not (folder / "val.json").exists():
        subprocess.run([sys.executable, FOLDER / "make_shapes.py", "--output_path", folder], cwd=ROOT, check=True)


def train(method, seed):
    """The line of one run. Raises InputError if it fails."""
    folder = ROOT / "output" / "detection_study" / f"{method}_{seed}"
    command = [sys.executable, FOLDER / "train.py", "--config_path", CONFIG, "--output_path", folder]
    command += ["--method", method, "--seed", str(seed), "--loaders", "1"]
    if (folder / "resume.ckpt").exists():
        command.append("--resume")
    print(f"{method}, seed {seed}", flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode:
        raise InputError(f"methods: {method} with seed {seed} failed; see above, and start again")
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def read_results(path):
    """The finished runs."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def format_table(results):
    """Mean and standard deviation of the runs of each method."""
    rows = []
    for method in METHODS:
        runs = [line for line in results if line["method"] == method]
        if runs:
            columns = [[run["score"]["box"][key] for run in runs] for key in ("mAP", "mAP50")]
            rows.append(
                [
                    method,
                    len(runs),
                    *map(_spread, columns),
                    f"{100 * np.mean([run['sparsity'] for run in runs]):.4f}",
                    max(len(run["emptied"]) for run in runs),
                    f"{np.mean([run['seconds'] for run in runs]):.0f}",
                ]
            )
    headers = ["method", "seeds", "mAP %", "mAP50 %", "sparsity %", "emptied layers", "seconds"]
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True)


def _spread(values):
    spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{spread}"


if __name__ == "__main__":
    run_program(main)
