"""Errors of input, and how a program ends on them."""

import os
import signal
import sys

from .stopping import Stopped, started


class InputError(Exception):
    """Something the user gave is wrong. The message is one line: what, where, and what to do."""


def tell(kind, message):
    """Print a message as one line on stderr, after its kind, such as error or warning."""
    print(f"{kind}: {' '.join(str(message).split())}", file=sys.stderr)


def run_program(main):
    """Run `main()`; an InputError becomes one line on stderr and exit code 2, any other exception is a bug.

    A run that a signal has stopped ends with one line too, and with the code 128 + the signal's number.
    """
    if hasattr(sys.stdout, "reconfigure"):  # it may be closed
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: a file's name need not be of a console's letters
    started()
    try:
        main()
        print(end="", flush=True)
    except Stopped as stop:
        print(stop, file=sys.stderr)
        raise SystemExit(stop.exit_code) from None
    except KeyboardInterrupt:
        print(f"stopped by {signal.SIGINT.name}", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
    except BrokenPipeError:  # whoever read the output has read enough
        _drop_output()
        raise SystemExit(128 + signal.SIGPIPE) from None
    except OSError as error:
        if error.errno is None:  # not the system's
            raise
        _drop_output()
        tell("error", f"{error.filename or 'a file or the standard output'}: {error.strerror}")
        raise SystemExit(2) from None
    except InputError as error:
        tell("error", error)
        raise SystemExit(2) from None


def _drop_output():
    """Let what is left to print go nowhere, so that Python does not try again at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
