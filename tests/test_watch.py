"""The launcher's watch over msrun: whom it ends, whom it leaves alone. A shell stands for msrun and its workers."""

import os
import signal
import subprocess
import sys
import time

import pytest

from scripts import watch

# Starts two workers and a scheduler, says who they are, and waits for them, but never ends by itself.
MSRUN = """
MS_ROLE=MS_SCHED sleep 300 & MS_ROLE=MS_WORKER sleep 300 & one=$!; MS_ROLE=MS_WORKER sleep 300 & two=$!
echo $one $two; wait $one; wait $two; exec sleep 300
"""


TIMED_OUT = "The node: 1 is timed out. It may exit with exception\n"


class Job:
    """A stand-in of msrun in a group of its own, and the watch over it."""

    def __init__(self, folder, before="", patience="0.5"):
        self.ends, self.log = folder / "ends_0", folder / "scheduler.log"
        self.log.write_text(before)
        self.msrun = subprocess.Popen(["bash", "-c", MSRUN], stdout=subprocess.PIPE, text=True, start_new_session=True)
        self.workers = list(map(int, self.msrun.stdout.readline().split()))
        arguments = [str(self.msrun.pid), self.ends, self.log, patience]
        self.watch = subprocess.Popen([sys.executable, watch.__file__, *arguments], stdout=subprocess.PIPE)
        time.sleep(1.2)  # it has seen the workers

    def killed(self, seconds=20):
        """Whether the watch kills everything within some seconds."""
        try:
            self.msrun.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        assert self.watch.wait(20) == 0
        assert not [worker for worker in self.workers if watch.alive(worker)]
        return self.msrun.returncode == -signal.SIGKILL


@pytest.fixture
def job(tmp_path, request):
    job = Job(tmp_path, getattr(request, "param", ""))
    yield job
    if job.msrun.poll() is None:
        os.killpg(job.msrun.pid, signal.SIGKILL)
    job.msrun.communicate()
    job.watch.communicate(timeout=20)


def test_a_job_at_work_is_left_alone(job):
    job.ends.write_text("0 0\n")
    os.kill(job.workers[0], signal.SIGKILL)
    job.log.write_text("The node: 0 is registered\n")
    assert not job.killed(3)


def test_a_job_of_which_a_worker_has_failed_is_ended(job):
    job.ends.write_text("0 0\n1 3\n")
    assert job.killed()


@pytest.mark.slow  # fourteen seconds
@pytest.mark.parametrize(("code", "ends"), [(2, True), (1, False)])
def test_where_a_worker_has_refused_its_input_nobody_waits_for_the_scheduler(code, ends, tmp_path):
    job = Job(tmp_path, patience="45")
    job.ends.write_text(f"0 {code}\n")
    try:
        assert job.killed(8) == ends
    finally:
        if not ends:
            os.killpg(job.msrun.pid, signal.SIGKILL)
        job.msrun.communicate()
        job.watch.communicate(timeout=20)


def test_a_job_of_which_a_worker_has_vanished_is_ended_even_if_others_are_stopped(job):
    os.kill(job.workers[0], signal.SIGSTOP)
    os.kill(job.workers[1], signal.SIGKILL)
    assert job.killed()


def test_a_job_of_which_a_worker_does_not_answer_is_ended(job):
    job.log.write_text(TIMED_OUT)
    assert job.killed()


@pytest.mark.parametrize("job", [TIMED_OUT], indirect=True)
def test_what_the_job_before_has_left_says_nothing_of_this_one(job):
    """On a folder that hosts share, the log is there until the first host removes it."""
    assert not job.killed(1.2)
    job.log.write_text("The node: 0 is registered\n")
    assert not job.killed(1)
    job.log.write_text("The node: 0 is registered\nThe node: 0 is timed out.\n")
    assert job.killed()


def test_the_watch_ends_with_the_job(job):
    os.killpg(job.msrun.pid, signal.SIGTERM)
    assert job.watch.wait(20) == 0
