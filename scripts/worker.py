"""What the launcher has msrun start for each worker and for its scheduler: python scripts/worker.py ENDS [arguments]

Runs train.py with the arguments, and adds to the file ENDS, in the order in which they happen, a line `RANK CODE` for
every worker of this host that comes to an end by itself; the code of one that a signal killed is the negative of the
signal. The workers that msrun ends thereafter are not in it: msrun kills this process with its worker.
"""

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path


def main():
    """Be the scheduler, or watch over a worker."""
    ends, *arguments = sys.argv[1:]
    command = [sys.executable, str(Path(__file__).resolve().parent.parent / "train.py"), *arguments]
    if os.environ["MS_ROLE"] == "MS_SCHED":
        level = os.environ.get("GLOG_v", "3")  # noqa: SIM112  MindSpore's name
        # Above 3, errors, it would not write which host it has lost, which the launcher reads in its log.
        os.execve(command[0], command, {**os.environ, "GLOG_v": level if level in ("0", "1", "2") else "3"})
    for number in (signal.SIGINT, signal.SIGTERM):  # from a batch system, to all processes: the worker saves and ends
        signal.signal(number, lambda *_: None)
    code = subprocess.call(command, preexec_fn=end_with_watcher)
    with open(ends, "a", encoding="utf-8") as file:
        file.write(f"{os.environ['RANK_ID']} {code}\n")
    sys.exit(code if code >= 0 else 128 - code)


def end_with_watcher():
    """Ask Linux to kill this process when its parent dies: nobody would watch it, and msrun believes it gone."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


if __name__ == "__main__":
    main()
