"""Parallel work on a Ray cluster, for :func:`coviar_mocrop.parallel.run_map`."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import islice
from typing import Any

from coviar_mocrop.errors import CoviarMocropError
from coviar_mocrop.messages import first_line, pip_install, reason_of
from coviar_mocrop.parallel.work import Item, attempt, use_one_thread

_TASK_SECONDS = 1.0
"""Target duration of a task. Several short items are sent as one task, because sending a task takes a millisecond."""
_MOST_ITEMS = 256
_CONNECTING = 30.0
"""Time for a cluster to answer, seconds."""
_PATIENCE = 5.0
"""Time for tasks to remove their temporary files when they are cancelled, seconds."""
_PROBE = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')"

_work: dict[str, Callable[[Any], Any]] = {}
"""In a process of the cluster: the function to call, by its reference. It is kept from task to task."""


class RayCluster:
    """Applies one function to items on all cores of a Ray cluster.

    Entering the context connects to the cluster. Leaving it cancels tasks in progress.

    Ray restarts dead processes, and uses machines that join later. Its own retries are switched off, because it would
    repeat tasks that run out of memory without end.
    """

    def __init__(self, work: Callable[[Any], Any], address: str, gpus: float = 0) -> None:
        """Set up the crew. Nothing is started yet.

        Args:
            work: see :func:`~coviar_mocrop.parallel.run_map`.
            address: ``auto`` or ``host:port``.
            gpus: number of GPUs, or a fraction of one, that a task needs.
        """
        self._given, self._address, self._gpus = work, address, gpus
        self._under_way: dict[Any, list[Any]] = {}

    def __enter__(self) -> RayCluster:
        """Connect to the cluster, unless this process is connected to one already.

        Raises:
            CoviarMocropError: Ray is not installed, or no cluster answers.
        """
        try:
            import ray
        except ImportError:
            raise CoviarMocropError(f"--ray needs the package ray; {pip_install('ray')}") from None
        self._ray = ray
        self._connected_before = ray.is_initialized()
        if not self._connected_before:
            _require_cluster(self._address)
            on_sigterm = signal.getsignal(signal.SIGTERM)
            ray.init(address=self._address, log_to_driver=False, logging_level=logging.ERROR)
            if on_sigterm is not None and threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, on_sigterm)  # Ray replaces the handler
        self._task = ray.remote(_do).options(num_cpus=1, num_gpus=self._gpus, max_retries=0)
        self._reference = ray.put(self._given)
        return self

    def __exit__(self, *_: object) -> None:
        """Cancel tasks in progress, and disconnect if :meth:`__enter__` connected."""
        tasks = list(self._under_way)
        for task in tasks:
            self._ray.cancel(task)
        if tasks:
            self._ray.wait(tasks, num_returns=len(tasks), timeout=_PATIENCE)
        if not self._connected_before:
            self._ray.shutdown()

    def run(self, items: Iterable[Item], alone: bool = False) -> Iterator[tuple[Item, Any]]:
        """Yield items and their outcomes, in any order. If the process of an item died, the outcome is an EOFError.

        Args:
            items: the items. There are up to two tasks per core at a time.
            alone: send each item as a separate task.

        Raises:
            CoviarMocropError: a machine of the cluster cannot run the function.
        """
        errors = self._ray.exceptions
        dead = (errors.WorkerCrashedError, errors.OutOfMemoryError, errors.NodeDiedError, errors.ObjectLostError)
        coming, size, limit, counted = iter(items), 1, 0, -1e9
        while True:
            if time.monotonic() - counted > 10:
                limit, counted = 2 * max(int(self._ray.cluster_resources().get("CPU", 0)), 1), time.monotonic()
            while len(self._under_way) < limit and (portion := list(islice(coming, size))):
                self._under_way[self._task.remote([self._reference], portion, os.getcwd())] = portion
            if not self._under_way:
                return
            done, _ = self._ray.wait(list(self._under_way), timeout=10)
            for task in done:
                portion = self._under_way.pop(task)
                try:
                    outcomes, seconds = self._ray.get(task)
                except dead:
                    outcomes = [EOFError()] * len(portion)
                except errors.RayError as error:
                    cause = getattr(error, "cause", None) or error
                    raise CoviarMocropError(
                        f"--ray {self._address}: a machine of the cluster cannot be used ({first_line(cause)}); "
                        "all need the same coviar_mocrop and access to this folder"
                    ) from error
                else:
                    wanted = len(portion) * _TASK_SECONDS / max(seconds, 1e-6)
                    size = 1 if alone else max(1, min(int(wanted), 2 * size, _MOST_ITEMS))
                yield from zip(portion, outcomes, strict=True)


def _do(reference: list[Any], items: Sequence[Any], folder: str) -> tuple[list[Any], float]:
    """A task, which runs in a process of the cluster. Returns the outcomes, and the time they took in seconds."""
    import ray

    start = time.perf_counter()
    use_one_thread()
    try:
        os.chdir(folder)  # so that relative paths work, and messages name paths as they were given
    except OSError as error:
        raise CoviarMocropError(f"{socket.gethostname()}: {folder}: {error.strerror}") from None
    number = reference[0].hex()
    if number not in _work:
        _work.clear()
        _work[number] = ray.get(reference[0])
    return [attempt(_work[number], item) for item in items], time.perf_counter() - start


@cache
def _require_cluster(address: str) -> None:
    """Check that a cluster answers, in a separate process with a time limit, because Ray itself waits for very long.

    Raises:
        CoviarMocropError: no cluster answers.
    """
    reason = _why_unreachable(address)
    if not reason:
        probe = [sys.executable, "-c", _PROBE, address]
        try:
            done = subprocess.run(probe, capture_output=True, text=True, timeout=_CONNECTING, check=False)
        except subprocess.TimeoutExpired:
            reason = f"no answer in {_CONNECTING:.0f} s"
        else:
            if done.returncode == 0:
                return
            reason = done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
    raise CoviarMocropError(
        f"--ray {address}: no Ray cluster answers ({reason}); start one with ray start --head, "
        "and give auto or HOST:PORT"
    )


def _why_unreachable(address: str) -> str:
    """The error of a connection to HOST:PORT; empty if the connection works or the address has another form."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        return ""
    try:
        with socket.create_connection((host, int(port)), timeout=_CONNECTING):
            return ""
    except (OSError, OverflowError) as error:
        return reason_of(error)
