"""What all tests share."""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Tests run side by side, each in one thread. Torch reads this, here and in the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# How long an example takes depends on what else runs. `make test-all` asks for the thorough profile.
settings.register_profile("quick", deadline=None, max_examples=25, derandomize=True)
settings.register_profile("thorough", deadline=None, max_examples=300)
settings.load_profile("quick")


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_xdist_auto_num_workers() -> Generator[None, int, int]:
    """One process more than there are processors, because the tests of cameras wait most of their time."""
    return (yield) + 1


def pytest_collection_finish() -> None:
    """Exempt the half million objects of the imports from garbage collection."""
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # some modules report at exit what was not freed


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo data set in small; see :func:`demo.make_small_demo`."""
    from demo import make_small_demo

    folder = tmp_path_factory.mktemp("demo")
    make_small_demo(folder)
    return folder


@pytest.fixture
def small_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips of the demo data set are made small."""
    from demo import make_clips_small

    make_clips_small(monkeypatch)


@pytest.fixture(scope="module")
def no_figures() -> Iterator[None]:
    """Runs of the module make no figures of clips, and draw none of results: that takes longer than training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coviar_mocrop.viz.show._add_figures", lambda *_: None)
        patch.setattr("coviar_mocrop.viz.compare.save_figure", lambda _, path: Path(path).touch())
        patch.setattr("torch.utils.tensorboard.SummaryWriter.add_figure", lambda *_, **__: None)
        yield
