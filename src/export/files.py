"""New files that appear complete or not at all."""

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

from ..platform.errors import InputError


@contextmanager
def scratch_folder(path):
    """A folder for files on the way to `path`, beside it and gone with the block.

    It is one of its own because ms.export makes the folder it writes to private, and goes by its number under /proc
    because ms.export refuses names with a space, an umlaut, a bracket and more.
    """
    with tempfile.TemporaryDirectory(dir=Path(path).parent, prefix=".export-") as folder:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            yield Path(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)


@contextmanager
def new_file(path, room=0):
    """A path to write to; when the block ends well, the file is on the disk and replaces `path` in one step.

    It lies in a `scratch_folder`. room: bytes that must be free for it, where the writer does not say so by itself.
    Raises InputError if the folder of `path` does not exist or cannot be written to, or the disk is full.
    """
    path = Path(path)
    try:
        with scratch_folder(path) as folder:
            written = folder / f"exported{path.suffix}"
            _check_room(folder, room)
            yield written
            os.chmod(written, 0o644)
            with open(written, "rb") as file:
                os.fsync(file.fileno())
            os.replace(written, path)
    except OSError as error:
        raise InputError(f"file_name: cannot write {path}: {error.strerror or error}") from None


def _check_room(folder, size):
    """Raise OSError unless a file of `size` bytes fits into the folder."""
    if size:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, size)


def is_utf8(path):
    """Whether the real name of a path is UTF-8, as libraries in C++ want it."""
    try:
        os.path.realpath(path).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
