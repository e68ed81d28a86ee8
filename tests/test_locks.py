"""A lock that another thread holds while the process forks."""

from __future__ import annotations

import os
import time
from threading import Event, Thread

import pytest

from coviar_mocrop.locks import ForkSafeLock


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_does_not_wait_for_a_thread_it_does_not_have() -> None:
    lock, held, done = ForkSafeLock(), Event(), Event()

    def hold() -> None:
        with lock:
            held.set()
            done.wait()

    thread = Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if not child:
        with lock:
            os._exit(7)
    status, deadline = (0, 0), time.monotonic() + 60
    while not status[0] and time.monotonic() < deadline:
        status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.01)
    done.set()
    thread.join()
    if not status[0]:
        os.kill(child, 9)
    assert os.waitstatus_to_exitcode(status[1]) == 7 and status[0]
