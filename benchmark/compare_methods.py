"""Which pruning method wins, by how much, and when? Trains methods x sparsities x seeds, and reports what they reach.

usage: python benchmark/compare_methods.py [--data digits characters] [--parts methods ablation pattern transformer]
                                           [--jobs N] [--minutes M] [--report_only]

One training run per core at a time. A finished run is one line of docs/study/results.jsonl; what stands there is not
run again, so the study continues where it was stopped. Table and figures beside it are made from these lines alone; of
a data set that is not through yet, from those of version 0.1.0.
"""

import argparse
import json
import os
import queue
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import make_characters
from study_report import write_report
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
STUDY = ROOT / "docs" / "study"
RESULTS = STUDY / "results.jsonl"
FORMER = STUDY / "results_0.1.jsonl"  # with the learning rate, gmp and magnitude of version 0.1.0
CONFIGS = {name: ROOT / "config" / f"resnet20_{name}.yaml" for name in ("digits", "characters")}
TRANSFORMER = "characters, transformer"  # what the results name its runs by: their network is another
RECIPES = {**CONFIGS, TRANSFORMER: ROOT / "config" / "vit_small_characters.yaml"}
SEEDS = {"digits": 5, "characters": 3}
SPARSITIES = (0.95, 0.98, 0.99)
PATTERNS = ("2:4", "1:4")
PATTERN_SEEDS = 5
PATTERN_METHODS = ("magnitude", "gmp", "gap", "rpg")
TRANSFORMER_SEEDS = 5
TRANSFORMER_METHODS = ("gmp", "gap", "rpg")
TRANSFORMER_SPARSITIES = (0.8, 0.9)
PARTS = ("methods", "ablation", "pattern", "transformer")
METHODS = {
    "magnitude": {"method": "magnitude"},
    "gmp": {"method": "gmp"},
    "set": {"method": "set"},
    "rigl": {"method": "rigl"},
    "gap": {"method": "gap"},
    "rpg": {"method": "rpg"},
    "rpg, every step": {"method": "rpg", "rank_interval": 1, "rank_weight": 0.1},
}


class Run(NamedTuple):
    """One training run: its data set, part of the study, label, settings beyond the recipe's, and seed."""

    data: str
    part: str
    name: str
    settings: dict
    seed: int

    @property
    def key(self):
        """What makes the run: two runs of one key have the same result."""
        return json.dumps([self.data, self.settings, self.seed], sort_keys=True)


def main_part(data):
    """Dense, and every method at every sparsity."""
    dense = [("dense", {"method": "dense"})]
    pruned = [
        (name, {**settings, "sparsity": sparsity}) for sparsity in SPARSITIES for name, settings in METHODS.items()
    ]
    return [
        Run(data, "methods", name, settings, seed) for seed in range(SEEDS[data]) for name, settings in dense + pruned
    ]


def ablation(data):
    """Lambda and eta varied at 98 %, at updates and in steps.

    The recipe itself has lambda 0.5 and eta 0.1, and 0.1 and 0.1 in every step; see `main_part`.
    """
    pairs = ((2.0, 0.1), (8.0, 0.1), (0.5, 0.3), (2.0, 0.3))
    changes = [{"rank_weight": weight, "tail_energy": eta} for weight, eta in pairs]
    changes += [{"rank_weight": weight, "rank_interval": 1} for weight in (0.5, 2.0)]
    settings = [{"method": "rpg", **change} for change in changes]
    return [
        Run(data, "ablation", label(change), {**change, "sparsity": 0.98}, seed)
        for seed in range(SEEDS[data])
        for change in settings
    ]


def pattern_part(data):
    """Every N:M pattern by one cut, and by the three ways to prune gradually."""
    return [
        Run(data, "pattern", name, {**METHODS[name], "pattern": pattern}, seed)
        for seed in range(PATTERN_SEEDS)
        for pattern in PATTERNS
        for name in PATTERN_METHODS
    ]


def transformer_part():
    """A vision transformer on the characters: dense, and pruned gradually in three ways."""
    pruned = [(name, {**METHODS[name], "sparsity": s}) for s in TRANSFORMER_SPARSITIES for name in TRANSFORMER_METHODS]
    return [
        Run(TRANSFORMER, "transformer", name, settings, seed)
        for seed in range(TRANSFORMER_SEEDS)
        for name, settings in [("dense", {"method": "dense"}), *pruned]
    ]


def study(data, parts):
    """The runs of some data sets and parts of the study, in the order in which they are trained."""
    harder_first = [name for name in reversed(list(CONFIGS)) if name in data]
    runs = [run for name in harder_first if "methods" in parts for run in main_part(name)]
    runs += ablation("characters") if "ablation" in parts and "characters" in data else []
    runs += [run for name in harder_first if "pattern" in parts for run in pattern_part(name)]
    return runs + (transformer_part() if "transformer" in parts and "characters" in data else [])


def label(change):
    """A name for settings: the method, then what differs."""
    return ", ".join([change["method"]] + [f"{key} {value}" for key, value in change.items() if key != "method"])


def read_results(path):
    """The finished runs, in the order in which they ended; a torn last line is passed over."""
    results = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            results.append(json.loads(line))
        except json.JSONDecodeError:
            print(f"{path}: passing over a line that is not whole", file=sys.stderr)
    return results


def key_of(result):
    """The `Run.key` of a finished run."""
    return Run(result["data"], "", "", result["settings"], result["seed"]).key


def reported(results, former):
    """What the report is made of: of each data set the new lines once its methods are all there, else the former ones.

    Lines of two recipes are never compared with each other; of the patterns and the transformer there are no former
    ones.
    """
    done, lines = {key_of(result) for result in results}, []
    for data in reversed(list(CONFIGS)):
        whole = all(run.key in done for run in main_part(data))
        found = results if whole else former + [result for result in results if result["part"] == "pattern"]
        lines += [result for result in found if result["data"] == data]
    return lines + [result for result in results if result["data"] == TRANSFORMER]


def train(run, core, folder):
    """Train one run on one core; returns its line of the results."""
    output = Path(folder) / "run"
    options = {**run.settings, "seed": run.seed, "output_path": output, "num_workers": 1, "device_target": "CPU"}
    if run.data in ("characters", TRANSFORMER):
        options["data_path"] = ROOT / "data"
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "--config_path", str(RECIPES[run.data]), *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{run.key} ended with code {done.returncode}: {done.stderr.strip()[-500:]}")
    result = json.loads((output / "result.json").read_text(encoding="utf-8"))
    kept = ("best", "last", "sparsity", "average_relative_rank", "average_relative_tail_rank")
    return {
        **run._asdict(),
        **{key: result[key] for key in kept},
        "seconds": round(time.perf_counter() - begin, 1),
    }


def run_all(runs, path, jobs, minutes):
    """Train what is missing, `jobs` runs at a time, each on a core of its own; one line of results per run."""
    cores = queue.SimpleQueue()
    for core in sorted(os.sched_getaffinity(0))[:jobs]:
        cores.put(core)
    end = time.monotonic() + 60 * minutes

    def work(run):
        if time.monotonic() > end:
            return None
        core = cores.get()
        try:
            with tempfile.TemporaryDirectory() as folder:
                return train(run, core, folder)
        finally:
            cores.put(core)

    with ThreadPoolExecutor(jobs) as pool, open(path, "a+b") as file:
        if file.tell() and not path.read_bytes().endswith(b"\n"):
            file.write(b"\n")  # the last line was torn; the next begins on its own
        futures = [pool.submit(work, run) for run in runs]
        try:
            for future in tqdm(as_completed(futures), total=len(runs), unit="run"):
                result = future.result()
                if result is not None:
                    file.write(json.dumps(result).encode() + b"\n")
                    file.flush()
        except BaseException:
            for future in futures:
                future.cancel()
            raise


def main():
    """Run what is missing, then write table and figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", choices=tuple(CONFIGS), default=list(CONFIGS))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="runs at a time")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no run after that time")
    parser.add_argument("--report_only", action="store_true", help="only make table and figures again")
    arguments = parser.parse_args()

    STUDY.mkdir(parents=True, exist_ok=True)
    if not arguments.report_only:
        make_characters.write(ROOT / "data")
        runs = study(arguments.data, arguments.parts)
        done = {key_of(result) for result in read_results(RESULTS)}
        missing = {run.key: run for run in runs if run.key not in done}
        print(f"{len(runs)} runs, {len(missing)} of them missing")
        run_all(list(missing.values()), RESULTS, arguments.jobs, arguments.minutes)
    write_report(reported(read_results(RESULTS), read_results(FORMER)), STUDY)


if __name__ == "__main__":
    main()
