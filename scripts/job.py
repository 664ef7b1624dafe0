"""What the launcher asks before it starts workers: python scripts/job.py WORKERS [arguments of train.py]

Prints the output folder, or nothing for a dry run. Builds the run as a single process would: an input error in its
configuration, data or files then shows once and at once, instead of in every worker's log when all have started.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import src  # noqa: F401  sets the environment before mindspore loads
from src.config.command_line import load_config
from src.platform.device import select_device
from src.platform.errors import run_program
from src.platform.parallel import check_scheduler, local_batch_size
from src.run.build import build_parts
from src.run.folder import RunFolder
from src.run.identity import check_content
from src.run.resume import check_recipe, read_run
from src.run.state_schema import read_progress


def main():
    """Check the configuration of a job."""
    workers, arguments = int(sys.argv[1]), sys.argv[2:]
    config = load_config(arguments)
    select_device(config.device_target)
    local_batch_size(config.batch_size, workers, config.accumulation_steps)
    if config.dry_run:
        return
    first_host = os.environ.get("NODE_RANK", "0") == "0"
    if first_host and os.environ.get("MASTER_PORT"):
        check_scheduler(os.environ.get("MASTER_ADDR", "127.0.0.1"), int(os.environ["MASTER_PORT"]))
    folder = RunFolder(config.output_path)
    folder.check(config)
    if first_host:  # no other run is at work there; worker 0 claims it again
        folder.claim()
        folder.release()
    saved = None
    if config.resume_ckpt:
        _, saved, found = read_run(folder.resume_path(config.resume_ckpt))
        saved = read_progress(found, saved)
        check_recipe(found, saved.config, config)
    parts = build_parts(config)
    if saved is not None:
        check_content(found, saved.data, parts.data.content())
    print(config.output_path)


if __name__ == "__main__":
    run_program(main)
