"""Ending on a signal: a run finishes its step, saves, and ends with the signal's exit code; so does a program that only
begins, at once.
"""

import os
import signal

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """A signal ended the run, and its state is saved. The message says how to continue."""

    def __init__(self, message, number):
        super().__init__(message)
        self.exit_code = 128 + number


def end_quietly_while_starting():
    """From here to `started()`, a Ctrl-C ends the process with one line: what is only half imported cannot unwind."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def started():
    """All is imported: a Ctrl-C is a KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number, _):
    os.write(2, f"stopped by {signal.Signals(number).name}\n".encode())
    os._exit(128 + number)


class StopSignals:
    """Inside its `with` block, SIGINT and SIGTERM are only noted in `received` (0 for none); a second one kills.

    Python sees a signal between two of its own instructions: when the compiled step, or its compilation, is done.
    MindSpore takes SIGINT over while it compiles or runs a graph and when it opens an epoch's data: it sends SIGTERM in
    its place, and does not give SIGINT back. `renew()`, after each step, takes it back.
    """

    def __init__(self):
        self.received = 0
        self._before = {}

    def __enter__(self):
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def renew(self):
        """Put the handlers in place again, unless a signal has come; a matter of microseconds."""
        if self._before and not self.received:
            for number in SIGNALS:
                signal.signal(number, self._note)

    def _note(self, number, _):
        self.received = number
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)
