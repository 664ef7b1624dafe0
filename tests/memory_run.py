"""Train for 2,002 steps and print resident memory in MiB every 100 steps: python tests/memory_run.py FOLDER"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import src  # noqa: F401,I001  sets the environment before mindspore loads

import psutil

from src.config.keys import resolve
from src.platform.device import select_device
from src.run.trainer import Trainer


def main():
    """Train on the digits, with a mask update every five steps and a checkpoint every 50."""
    select_device("CPU")
    settings = {"epoch_size": 91, "update_interval": 5, "update_end": 0.95, "save_steps": 50, "lr": 0.05}
    trainer = Trainer(resolve({**settings, "output_path": sys.argv[1]}))
    save_if_due, process = trainer.saver.save_if_due, psutil.Process()

    def save_and_measure():
        save_if_due()
        if trainer.step.step % 100 == 1:
            sys.__stdout__.write(f"{trainer.step.step} {process.memory_info().rss / 2**20:.2f}\n")

    trainer.saver.save_if_due = save_and_measure
    sys.stdout = sys.stderr  # the epochs' lines
    trainer.run()


if __name__ == "__main__":
    main()
