"""What the launcher asks before it starts workers: python scripts/job.py WORKERS [arguments of train.py]

Prints the output folder, or nothing for a dry run. Builds the run as a single process would: an input error in its
configuration, data or files then shows once and at once, instead of in every worker's log when all have started.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import src  # noqa: F401  sets the environment before mindspore loads
from src.config.command_line import load_config
from src.platform.device import select_device
from src.platform.errors import run_program
from src.platform.parallel import local_batch_size
from src.run.build import build_parts
from src.run.folder import RunFolder
from src.run.resume import check_recipe, read_run


def main():
    """Check the configuration of a job."""
    workers, arguments = int(sys.argv[1]), sys.argv[2:]
    config = load_config(arguments)
    select_device(config.device_target)
    local_batch_size(config.batch_size, workers, config.accumulation_steps)
    if config.dry_run:
        return
    folder = RunFolder(config.output_path)
    folder.check(config)
    if config.resume_ckpt:
        _, saved, found = read_run(folder.resume_path(config.resume_ckpt))
        check_recipe(found, saved["config"], config)
    build_parts(config)
    print(config.output_path)


if __name__ == "__main__":
    run_program(main)
