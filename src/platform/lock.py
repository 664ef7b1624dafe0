"""One writer a folder: among all processes, and among hosts where the file system knows locks."""

import errno
import fcntl
import os

from .errors import InputError, tell

NAME = ".lock"
UNKNOWN = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # what file systems without locks answer


class FolderLock:
    """The lock of a folder, held from its making to `release()` or to the end of the process, however that comes.

    It is the kernel's, on a file in the folder: a process that dies leaves the file behind, but not the lock. On NFS
    the server keeps it for all hosts. On a file system without locks a warning says that nobody is kept out.
    Raises InputError, which names `option`, if another process holds it; OSError if the folder cannot be written to.
    """

    def __init__(self, folder, option):
        self.path = folder / NAME
        self._file = _lock(self.path, option)
        while not _has_name(self._file, self.path):  # the process that held it has removed the file in between
            os.close(self._file)
            self._file = _lock(self.path, option)

    def release(self):
        """Let others in, and leave nothing behind."""
        self.path.unlink(missing_ok=True)
        os.close(self._file)


def _lock(path, option):
    """A descriptor of the file, locked."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise InputError(
            f"{option}: another run writes to {path.parent}; wait for its end, or choose another folder"
        ) from None
    except OSError as error:
        if error.errno not in UNKNOWN:
            os.close(file)
            raise
        tell("warning", f"{path.parent} knows no locks: see to it that no other run writes there")
    return file


def _has_name(file, path):
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False
