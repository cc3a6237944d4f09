"""One writer at a time: a lock on a file, which goes with the process that holds it."""

import fcntl
from pathlib import Path
from threading import Lock

from arc_seal.errors import InputError

_GUARD = Lock()
_HELD: set[Path] = set()
"""The lock files that this process holds. The kernel's locks keep other processes out, and no one else; and as closing
any handle on such a file would let its lock go, it is opened once."""


class WriterLock:
    """The right to write a file, until it is released or the process ends, however that comes.

    Held by a POSIX record lock on a file beside it, which stays there: it means nothing. Processes that the holder
    forks do not share it, so workers that outlive the holder do not keep the file from the next one.

    Args:
        path: The file to be written; its folder is made if it is not there.

    Raises:
        InputError: When somebody else writes it, or its folder cannot be written to.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()
        self._lock_path = self._path.with_name(f"{self._path.name}.lock")
        with _GUARD:
            if self._lock_path in _HELD:
                raise self._refusal("this process, which does so already")
            self._acquire()
            _HELD.add(self._lock_path)

    def release(self) -> None:
        """Let the next one write; releasing twice does nothing."""
        with _GUARD:
            if not self._file.closed:
                self._file.close()
                _HELD.discard(self._lock_path)

    def _acquire(self) -> None:
        try:
            self._lock_path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._lock_path.open("a")
        except OSError as error:
            folder, found = str(self._lock_path.parent), error.strerror or str(error)
            raise InputError(folder, "", "a folder that can be written to", found.lower()) from None
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # POSIX leaves it to the system which
            self._file.close()
            raise self._refusal("another process that does") from None
        except OSError as error:
            self._file.close()
            raise InputError(str(self._lock_path), "", "a disk with file locks", str(error.strerror).lower()) from None

    def _refusal(self, found: str) -> InputError:
        return InputError(str(self._path), "", "a ledger that nobody else writes", found)
