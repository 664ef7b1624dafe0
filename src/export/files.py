"""New files that appear complete or not at all."""

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

from ..platform.errors import InputError


@contextmanager
def new_file(path):
    """A path to write to; when the block ends well, the file is on the disk and replaces `path` in one step.

    It lies in a folder of its own beside `path`, because ms.export makes the folder it writes to private.
    Raises InputError if the folder of `path` does not exist or cannot be written to.
    """
    path = Path(path)
    try:
        folder = tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-")
    except OSError as error:
        raise InputError(f"file_name: cannot write to the folder {path.parent}: {error.strerror}") from None
    with folder as name:
        written = Path(name) / path.name
        yield written
        os.chmod(written, 0o644)
        with open(written, "rb") as file:
            os.fsync(file.fileno())
        os.replace(written, path)
