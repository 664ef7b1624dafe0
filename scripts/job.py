"""What the launcher asks before it starts workers: python scripts/job.py WORKERS [arguments of train.py]

Prints the output folder, or nothing for a dry run. An input error then shows once and at once, instead of in every
worker's log when all of them have started.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import src  # noqa: F401  sets the environment before mindspore loads
from src.config import load_config
from src.device import select_device
from src.errors import run_program
from src.parallel import local_batch_size
from src.run_folder import RunFolder


def main():
    """Check the configuration of a job."""
    workers, arguments = int(sys.argv[1]), sys.argv[2:]
    config = load_config(arguments)
    select_device(config.device_target)
    local_batch_size(config.batch_size, workers)
    if not config.dry_run:
        RunFolder(config.output_path).check(config)
        print(config.output_path)


if __name__ == "__main__":
    run_program(main)
