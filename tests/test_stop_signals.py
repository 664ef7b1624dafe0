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
