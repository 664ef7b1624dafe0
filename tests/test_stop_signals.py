"""What a process does with SIGINT and SIGTERM while it trains."""

import os
import signal
import subprocess
import sys
import time

import pytest

from src.platform.stopping import StopSignals

# Waits in one call after another, as a training loop does, and says how often a signal has reached it.
PROGRAM = """
import signal, sys, time
from src.platform.stopping import StopSignals
with StopSignals() as signals:
    print("ready", flush=True)
    while not signals.received:
        time.sleep(0.01)
    print(signals.received, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_and_the_handlers_come_back(number):
    before = signal.getsignal(number)
    with StopSignals() as signals:
        assert signals.received == 0
        os.kill(os.getpid(), number)
        assert signals.received == number
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(
    ("first", "second"), [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)], ids=str
)
def test_a_second_signal_ends_the_process_at_once(first, second):
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(first)
    assert process.stdout.readline() == f"{int(first)}\n"
    start = time.monotonic()
    process.send_signal(second)
    assert process.wait(timeout=30) == -second
    assert time.monotonic() - start < 5


# A program that imports for long, and one that has begun.
STARTING = "import src.programs, time; print('ready', flush=True); time.sleep(60)"
BEGUN = """
import time
import src.programs
from src.platform.errors import run_program
def main():
    print("ready", flush=True)
    time.sleep(60)
run_program(main)
"""


def listen():
    """Let a process have the SIGINT that a shell keeps from what runs in its background, these tests perhaps."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("program", [STARTING, BEGUN], ids=["starting", "begun"])
def test_a_ctrl_c_ends_a_program_with_one_line(program):
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=listen,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == ("", "stopped by SIGINT\n")
    assert process.returncode == 130


def test_the_programs_are_imported_behind_that_line():
    """What they import before is a matter of milliseconds."""
    code = "import signal, src.programs as p, sys; print(signal.getsignal(2).__name__, 'mindspore' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, preexec_fn=listen)
    assert done.stdout == "_end False\n", done.stderr
