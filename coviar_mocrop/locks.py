"""A lock for threads that survives a fork of the process."""

from __future__ import annotations

import os
from threading import RLock


class ForkSafeLock:
    """A reentrant lock of this process, for the lifetime of the program. Use it as a context manager.

    A forked process starts with the lock free, also if another thread of its parent held it, which the fork does not
    copy. Otherwise it would wait for ever.
    """

    def __init__(self) -> None:
        """Make a free lock."""
        self._renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()
