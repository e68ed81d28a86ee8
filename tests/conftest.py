"""What all tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Tests run side by side, one process for each processor. Torch reads this, here and in the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("shared_machine", deadline=None)  # how long an example takes depends on what else runs
settings.load_profile("shared_machine")


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo data set in small: ``videos`` and ``lists``, 8 clips to train on and 8 to test on."""
    from coviar_mocrop.datasets.demo import make_demo

    folder = tmp_path_factory.mktemp("demo")
    make_demo(folder / "videos", folder / "lists", train_clips=8, test_clips=8, progress=False)
    return folder


@pytest.fixture(scope="module")
def no_figures() -> Iterator[None]:
    """Runs of the module draw no figures, which take longer than the training itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coviar_mocrop.inference.show._add_figures", lambda *_: None)
        yield
