"""Files that are replaced in one step: whatever happens, the old one or the new one is there, whole.

Files of others: of them only regular ones are read, up to a size.
"""

import os
import stat
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError

MIB = 1 << 20
GIB = 1 << 30


@contextmanager
def reading(path, problem, most):
    """A regular file of at most `most` bytes, open for reading, as a binary file and its size.

    A device or a pipe might never end, so it is not even waited for. Raises InputError, as `problem` and the reason, if
    the file cannot be opened, and for an OSError inside.
    """
    try:
        file = open(path, "rb", opener=_open_at_once)  # noqa: SIM115  closed below
    except (OSError, ValueError) as error:  # a ValueError: a name that no file can have
        raise InputError(f"{problem}: {getattr(error, 'strerror', None) or error}") from None
    try:
        with file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"{problem}: a device or a pipe; give a regular file")
            if status.st_size > most:
                raise InputError(f"{problem}: {status.st_size:,} bytes; such a file has at most {most:,}")
            yield file, status.st_size
    except OSError as error:
        raise InputError(f"{problem}: {error.strerror or error}") from None


def _open_at_once(path, flags):
    """Open without waiting for somebody to write to a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def read_regular(path, problem, most):
    """The bytes of a regular file; see `reading`."""
    with reading(path, problem, most) as (file, size):
        return file.read(size)


def replace_file(path, chunks, keep=None):
    """Write pieces of bytes to `path`; the file so far, if there is one, is overwritten, or moves to `keep`.

    The new file is complete on the disk before it takes its name. Raises OSError; then nothing half-written is left.
    """
    path = Path(path)
    temporary = temporary_of(path)
    try:
        with open(temporary, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_new(path, overwrite, option):
    """Raise InputError if a file that nobody asked to replace is at `path`; option: what the path was given with."""
    if path.exists() and not overwrite:
        raise InputError(f"{option}: {path} exists; replace it with --overwrite, or choose another name")


@contextmanager
def writing(path, option):
    """Inside, an OSError becomes an InputError that names `path` and the option it was given with."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{option}: cannot write {path}: {error.strerror}") from None


def append_line(path, line):
    """Append a line of text; it is on the disk when this returns. Raises OSError."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


def temporary_of(path):
    """What a file is called while this process writes it."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def remove_temporaries(path):
    """Remove what killed processes left half-written of a file."""
    for file in path.parent.glob(f".{path.name}.[0-9]*.tmp"):
        file.unlink()


def sync_folder(folder):
    """Make a new name inside `folder` survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
