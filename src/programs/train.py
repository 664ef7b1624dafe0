"""Train a network and prune it while it trains: python train.py --config_path FILE [--key value ...]"""

import sys
from functools import partial

from ..config.command_line import load_config
from ..platform import parallel
from ..platform.device import select_device
from ..platform.errors import run_program
from ..report.sparsity import format_layers, format_summary
from ..run.build import build_parts
from ..run.plan import format_plan
from ..run.trainer import Trainer


def main():
    """Train by the configuration on the command line."""
    config = load_config()
    select_device(config.device_target)
    workers = parallel.start()
    if config.dry_run:
        plan = format_plan(build_parts(config, workers))
        if workers.rank == 0:
            print(plan)
        return
    trainer = Trainer(config, workers)
    result = trainer.run()
    if not trainer.writes:
        return
    print(format_layers(result))
    print(format_summary(result))
    print(f"best top-1 {result['best']['top1']:.2f} % (epoch {result['best']['epoch']}), ", end="")
    print(f"last {result['last']['top1']:.2f} %, {result['seconds']:.0f} s, in {config.output_path}")
    paths = draw(config.output_path)
    if paths:
        print(f"pictures and report: {', '.join(map(str, paths))}")


def draw(folder):
    """Pictures and report of a finished run, which stays as it is where they fail: then one line says why."""
    try:
        from ..report.run_report import write_run_report  # the first to need what only pictures need

        return write_run_report(folder)
    except Exception as error:
        print(f"no pictures and report: {type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        return []


program = partial(run_program, main)
