"""One piece of work on many items in processes: the same whoever does it, whoever dies, and nothing stays behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from coviar_mocrop.errors import CoviarMocropError, NoMotionVectorsError, VideoError
from coviar_mocrop.failed import shown, write_failed
from coviar_mocrop.files import atomic_write
from coviar_mocrop.parallel import run_map
from coviar_mocrop.parallel.processes import inherited_by_children
from coviar_mocrop.parallel.work import ONE_THREAD


def square(number: int) -> int:
    if number % 5 == 4:
        raise NoMotionVectorsError(f"{number}: has none")
    return number * number


def fail(number: int) -> int:
    raise KeyError(f"no {number}")


def not_to_be_sent(number: int) -> Callable[[], int]:
    return lambda: number


def surroundings(number: int) -> tuple[int, dict[str, str | None]]:
    time.sleep(0.05)
    return os.getpid(), {name: os.environ.get(name) for name in ONE_THREAD}


@dataclass(frozen=True)
class Die:
    """Squares numbers. ``always`` kills the process whenever it comes, ``once`` the first time."""

    folder: Path
    always: int
    once: int

    def __call__(self, number: int) -> int:
        seen = self.folder / f"{number}"
        with seen.open("a") as file:
            file.write("x")
        if number == self.always or (number == self.once and seen.read_text() == "x"):
            os.kill(os.getpid(), signal.SIGKILL)
        return number * number


class Counted:
    """Work that counts how often it is sent, and cannot be received if it is ``broken``."""

    sent = 0

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken

    def __getstate__(self) -> dict[str, Any]:
        Counted.sent += 1
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        assert not state["broken"], "cannot be received"

    def __call__(self, number: int) -> int:
        return number


@dataclass(frozen=True)
class Write:
    """Writes files, each for a long time."""

    folder: Path

    def __call__(self, name: str) -> None:
        with atomic_write(self.folder / name) as temporary:
            temporary.write_text(str(os.getpid()))
            time.sleep(60)


def outcomes(work: Callable[[int], Any], numbers: Any, **options: Any) -> dict[int, tuple[type, str]]:
    found = dict(run_map(work, numbers, progress=False, **options))
    return {number: (type(outcome), str(outcome)) for number, outcome in found.items()}


@pytest.mark.parametrize("workers", [1, 3])
def test_results_and_errors_are_those_of_a_plain_loop(workers: int) -> None:
    expected: dict[int, tuple[type, str]] = {number: (int, str(number * number)) for number in range(20)}
    for number in (4, 9, 14, 19):
        expected[number] = (NoMotionVectorsError, f"{number}: has none")
    assert outcomes(square, range(20), workers=workers) == expected
    assert outcomes(square, [], workers=workers) == {}


def test_a_long_list_is_taken_as_it_is_needed_and_the_work_is_sent_once_a_process() -> None:
    taken, ahead = 0, []

    def numbers() -> Iterator[int]:
        nonlocal taken
        for number in range(300):
            taken += 1
            yield number

    Counted.sent = 0
    for done, _ in enumerate(run_map(Counted(), numbers(), workers=2, progress=False)):
        ahead.append(taken - done)
    assert len(ahead) == 300
    assert max(ahead) <= 3
    assert Counted.sent == 2


def test_processes_use_one_thread_each_and_end_when_the_loop_does() -> None:
    before = dict(os.environ)
    found = list(run_map(surroundings, range(4), workers=2, progress=False))
    pids = {outcome[0] for _, outcome in found if isinstance(outcome, tuple)}
    assert len(pids) == 2 and os.getpid() not in pids
    assert all(outcome[1] == ONE_THREAD for _, outcome in found if isinstance(outcome, tuple))
    assert dict(os.environ) == before
    with closing(run_map(surroundings, range(1000), workers=2, progress=False)) as some:
        next(some)
        assert len(multiprocessing.active_children()) == 2
    assert multiprocessing.active_children() == []
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_what_kills_its_process_is_named_and_all_else_is_done(tmp_path: Path) -> None:
    found = outcomes(Die(tmp_path, always=3, once=5), range(10), workers=2)
    kind, text = found.pop(3)
    assert kind is VideoError
    assert text.startswith("3: the process that worked on it died 3 times")
    assert found == {number: (int, str(number * number)) for number in range(10) if number != 3}
    tries = {int(path.name): len(path.read_text()) for path in tmp_path.iterdir()}
    assert tries == {**dict.fromkeys(range(10), 1), 3: 3, 5: 2}


def test_the_terminal_shows_the_first_of_many_failures(tmp_path: Path) -> None:
    table = write_failed(tmp_path, {"a,b": 'says "no"\nand more', "c": "why"})
    assert table.read_text() == 'video,why\n"a,b","says ""no""\nand more"\nc,why\n'
    assert shown(range(20), table) == [str(number) for number in range(20)]
    assert shown(range(23), table) == [*shown(range(20), table), f"... and 3 more, see {table}"]
    write_failed(tmp_path, {})
    write_failed(tmp_path, {})
    assert list(tmp_path.iterdir()) == []


def test_bugs_are_raised_with_the_place_where_they_were_made() -> None:
    with pytest.raises(KeyError, match="no 0") as caught:
        list(run_map(fail, range(3), workers=1, progress=False))
    assert "in fail" in str(caught.value.__cause__)
    with pytest.raises(RuntimeError, match="pickle"):
        list(run_map(not_to_be_sent, range(3), progress=False))


def test_a_process_that_cannot_begin_is_one_line() -> None:
    with pytest.raises(CoviarMocropError, match=r"ended before it could work \(exit code 1\), see above") as caught:
        list(run_map(Counted(broken=True), range(3), progress=False))
    assert "\n" not in str(caught.value)


def test_ray_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(CoviarMocropError, match=r"^--ray needs the package ray; pip install .*\[ray\]'?$"):
        list(run_map(square, range(3), ray="auto", progress=False))


def test_ctrl_c_while_a_process_starts_is_not_lost() -> None:
    before, environment, reached = signal.signal(signal.SIGINT, signal.default_int_handler), dict(os.environ), False
    try:
        with pytest.raises(KeyboardInterrupt), inherited_by_children():
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)  # other threads do not block it
            reached = True
    finally:
        signal.signal(signal.SIGINT, before)
    assert reached and dict(os.environ) == environment
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


SCRIPT = """
import sys
from pathlib import Path
from coviar_mocrop.cli import run
from coviar_mocrop.parallel import run_map
from test_parallel import Write

if __name__ == "__main__":
    run(lambda: list(run_map(Write(Path(sys.argv[1])), ["a.txt", "b.txt", "c.txt"], workers=2, progress=False)))
"""


@pytest.mark.slow  # kills
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGKILL])
def test_signals_leave_neither_processes_nor_files(tmp_path: Path, number: signal.Signals) -> None:
    """SIGINT and SIGHUP come to all processes, as from a terminal; the others to the first one alone."""
    (tmp_path / "script.py").write_text(SCRIPT)
    files = tmp_path / "files"
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), str(files)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, Path(__file__).parents[:2]))},
        start_new_session=True,
        preexec_fn=hear_the_terminal,
    )
    pids: list[int] = []
    try:
        while len(pids) < 2 and process.poll() is None:
            time.sleep(0.01)
            pids = [int(text) for path in files.glob(".*") if (text := path.read_text())]
        if number in (signal.SIGINT, signal.SIGHUP):
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    if number == signal.SIGKILL:
        assert process.returncode == -number
    else:
        assert (process.returncode, errors) == (130, "stopped\n")
    deadline = time.monotonic() + 10
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(pids) == 2 and not any(map(is_running, pids))
    assert list(files.iterdir()) == []


def hear_the_terminal() -> None:
    for number in (signal.SIGINT, signal.SIGHUP):  # shells and nohup ignore them for what runs in the background
        signal.signal(number, signal.SIG_DFL)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
