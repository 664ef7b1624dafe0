"""Train a network and prune it while it trains: python train.py --config_path FILE [--key value ...]"""

import src  # noqa: F401  sets the environment before mindspore loads
from src import parallel
from src.config import load_config
from src.device import select_device
from src.errors import run_program
from src.plan import format_plan
from src.report import format_layers, format_summary
from src.trainer import Trainer


def main():
    """Train by the configuration on the command line."""
    config = load_config()
    select_device(config.device_target)
    workers = parallel.start()
    trainer = Trainer(config, workers)
    if config.dry_run and not trainer.writes:
        return
    if config.dry_run:
        print(format_plan(trainer))
        return
    result = trainer.run()
    if not trainer.writes:
        return
    print(format_layers(result))
    print(format_summary(result))
    print(f"best top-1 {result['best']['top1']:.2f} % (epoch {result['best']['epoch']}), ", end="")
    print(f"last {result['last']['top1']:.2f} %, {result['seconds']:.0f} s, in {config.output_path}")


if __name__ == "__main__":
    run_program(main)
