"""Errors of input, and how a program ends on them."""

import signal
import sys

from .stopping import Stopped


class InputError(Exception):
    """Something the user gave is wrong. The message is one line: what, where, and what to do."""


def tell(kind, message):
    """Print a message as one line on stderr, after its kind, such as error or warning."""
    print(f"{kind}: {' '.join(str(message).split())}", file=sys.stderr)


def run_program(main):
    """Run `main()`; an InputError becomes one line on stderr and exit code 2, any other exception is a bug.

    A run that a signal has stopped ends with one line too, and with the code 128 + the signal's number.
    """
    try:
        main()
    except Stopped as stop:
        print(stop, file=sys.stderr)
        raise SystemExit(stop.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    except InputError as error:
        tell("error", error)
        raise SystemExit(2) from None
