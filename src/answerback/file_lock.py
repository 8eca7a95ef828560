"""A lock for one process at a time, which the operating system releases when the process ends, however it ends."""

from pathlib import Path

from filelock import FileLock


def process_lock(path: Path) -> FileLock:
    """The lock in the file `path`: `acquire` returns at once, or raises `filelock.Timeout` if another process has it.

    It is held until `release`, or until the object is garbage.

    The file stays when the lock is released: to remove it would let two processes lock two files of one name. Where the
    file system has no locks `acquire` raises OSError, because a lock of another kind would outlive a killed process.
    """
    return FileLock(path, timeout=0, mode=0o600, thread_local=False, fallback_to_soft=False, preserve_lock_file=True)
