"""Errors of input, and how a program ends on them."""

import sys


class InputError(Exception):
    """Something the user gave is wrong. The message is one line: what, where, and what to do."""


def run_program(main):
    """Run `main()`; an InputError becomes one line on stderr and exit code 2, any other exception is a bug."""
    try:
        main()
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
