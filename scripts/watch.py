"""Watches over the processes of `msrun` on this host: python scripts/watch.py MSRUN ENDS SCHEDULER_LOG PATIENCE

MSRUN: its process, which leads a group of its own; ENDS: the file that worker.py writes. When a worker has failed, has
vanished together with its watcher, or does not answer the scheduler, msrun may wait for minutes: for workers that do
not come, or for one that is stopped. PATIENCE seconds after the first such sign the whole group is killed.
"""

import math
import os
import signal
import sys
import time
from pathlib import Path


def main():
    """Watch until msrun ends, or end it."""
    msrun, ends, scheduler_log, patience = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])
    before = read(scheduler_log)  # of a job before, if the first host, which shares the folder, has not removed it yet
    seen, since = set(), None
    while alive(msrun):
        seen |= workers_of(msrun)
        if since is None and in_trouble(seen, ends, scheduler_log, before):
            since = time.monotonic()
        if since is not None and time.monotonic() - since > min(patience, known(ends, scheduler_log, before)):
            os.killpg(msrun, signal.SIGKILL)
            return
        time.sleep(0.5)


def known(ends, scheduler_log, before):
    """Seconds that make sense to wait for when something is known: input refused, a worker lost; else infinity."""
    if "2" in codes_of(ends):
        return 5
    return 20 if names_lost(scheduler_log, before) else math.inf


def in_trouble(seen, ends, scheduler_log, before):
    """Whether the job cannot come to a good end any more; seen: all processes of workers that there have been.

    before: what the scheduler's log held when the job began, which says nothing of it.
    """
    gone = sum(not alive(process) for process in seen)  # asked first: a worker writes its line before it goes
    codes = codes_of(ends)
    return gone > len(codes) or any(code != "0" for code in codes) or names_lost(scheduler_log, before)


def names_lost(scheduler_log, before):
    """Whether the scheduler has said which worker it has lost."""
    log = read(scheduler_log)
    return log != before and " is timed out" in log


def codes_of(ends):
    """How the workers of this host that have come to an end did so."""
    return [line.split()[1] for line in read(ends).splitlines()]


def workers_of(msrun):
    """The watchers of workers among the processes that msrun has started."""
    children = read(Path(f"/proc/{msrun}/task/{msrun}/children")).split()
    return {int(child) for child in children if "MS_ROLE=MS_WORKER" in read(Path(f"/proc/{child}/environ")).split("\0")}


def alive(process):
    """Whether a process is there, and not only its exit code."""
    return read(Path(f"/proc/{process}/stat")).rpartition(")")[2].split()[:1] not in ([], ["Z"], ["X"])


def read(path):
    """The text of a file; none if it is not there."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


if __name__ == "__main__":
    main()
