"""Argument parsing of the programs: argparse, with errors of one line."""

import argparse

from .errors import InputError

_MOST = 2**20


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that takes no abbreviations and raises InputError instead of printing its usage."""

    def __init__(self, description, **options):
        super().__init__(description=description, allow_abbrev=False, **options)

    def error(self, message):
        raise InputError(f"command line: {message}; see --help")


def positive(text):
    """An argparse type: a whole number from 1 to a million or so, more than which is a slip."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    if number > _MOST:
        raise argparse.ArgumentTypeError(f"{text} is more than {_MOST:,}")
    return number


def add_network(parser):
    """The option that says what builds a network of one's own."""
    parser.add_argument(
        "--network",
        metavar="FILE.py:NAME",
        help="what builds the network, for a checkpoint of RPG.save_deployable: a function without arguments",
    )
