"""What all tests share."""

from __future__ import annotations

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
    """Take the half million objects of what was imported out of every later search for garbage."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Modules say at their end what was not freed."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo data set in small: ``videos`` and ``lists``, 8 clips to train on and 8 to test on."""
    from coviar_mocrop.datasets.demo import make_demo

    folder = tmp_path_factory.mktemp("demo")
    make_demo(folder / "videos", folder / "lists", train_clips=8, test_clips=8, progress=False)
    return folder


@pytest.fixture(scope="module")
def no_figures() -> Iterator[None]:
    """Runs of the module make no figures of clips, and draw none of results: that takes longer than training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coviar_mocrop.viz.show._add_figures", lambda *_: None)
        patch.setattr("coviar_mocrop.viz.compare.save_figure", lambda _, path: Path(path).touch())
        patch.setattr("torch.utils.tensorboard.SummaryWriter.add_figure", lambda *_, **__: None)
        yield
