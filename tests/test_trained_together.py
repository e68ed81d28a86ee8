"""Several streams from one decode of each clip: each gets what it would have got by itself, whatever happens."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from clips import record, wandering
from demo import outcome, same, small_config, small_configs

import coviar_mocrop.training.trainer as trainer_module
from coviar_mocrop.checkpoint import load_checkpoint
from coviar_mocrop.config import Config
from coviar_mocrop.errors import ConfigError, DataError, Interrupted
from coviar_mocrop.training.fitting import train_streams
from coviar_mocrop.training.saving import save_state
from coviar_mocrop.training.trainer import train, train_step

pytestmark = pytest.mark.usefixtures("no_figures")
STREAMS = ("iframe", "mv", "residual")


class Killed(BaseException):
    """Ends the process, in a manner of speaking."""


def alone(configs: Mapping[str, Config], folder: Path) -> dict[str, Any]:
    """What each run comes to when it is trained by itself."""
    found = {}
    for name, config in configs.items():
        changes = {"output": str(folder / "alone" / name), "data": config.data.model_copy(update={"workers": 0})}
        train({name: config.model_copy(update=changes)})
        found[name] = outcome(folder / "alone" / name)
    return found


def test_together_or_alone_gives_the_same_bits(demo: Path, tmp_path: Path) -> None:
    """With augmentation, dropout, mixup, micro-batches, other epochs and rates, and clips not all streams can read."""
    lines = (demo / "lists/train_split1.txt").read_text()
    videos = Path(shutil.copytree(demo / "videos", tmp_path / "videos"))
    for number in range(2):  # VP9 has pictures, but no motion vectors
        name = f"vp9_{number}.webm"
        record(wandering(12, 96, 64, 4, seed=number), videos / name, codec="libvpx-vp9")
        lines += f"{name} {lines.split()[1]} 0\n"
    (tmp_path / "l.txt").write_text(lines)
    configs = small_configs(
        demo,
        tmp_path / "together",
        data={"root": str(videos), "train_list": str(tmp_path / "l.txt"), "on_error": "skip", "workers": 2},
        input={"segments": 2, "full_size": 40},
        train={"accumulate": 2, "val_every": 1},
        iframe={"train": {"epochs": 1, "lr": 3e-3}},
        mv={"train": {"epochs": 3, "optimizer": "sgd"}, "model": {"backbone": "timm/test_resnet"}},
        residual={"train": {"epochs": 2, "val_every": 2, "schedule": "step", "steps": (1,)}},
    )
    best = train(
        {n: c.model_copy(update={"data": c.data.model_copy(update={"workers": 2})}) for n, c in configs.items()}
    )
    assert best == {name: tmp_path / "together" / name / "best.pt" for name in STREAMS}
    expected = alone(configs, tmp_path)
    assert [expected[name]["epoch"] for name in STREAMS] == [1, 3, 2]
    for name in STREAMS:
        assert same(outcome(tmp_path / "together" / name), expected[name]), name


@pytest.fixture(scope="module")
def whole(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two streams, 4 steps an epoch, trained together without an interruption."""
    folder = tmp_path_factory.mktemp("whole")
    train(pair(demo, folder))
    return folder


def pair(demo: Path, folder: Path) -> dict[str, Config]:
    """Runs that save after every step."""
    return small_configs(
        demo,
        folder,
        ("iframe", "mv"),
        input={"full_size": 40},
        train={"batch_size": 2, "epochs": 2, "save_minutes": 0, "val_every": 1},
    )


def reached(folder: Path) -> tuple[int, int] | None:
    """Epochs and further steps that are saved."""
    if not (folder / "last.pt").exists():
        return None
    content = load_checkpoint(folder / "last.pt")
    return content["epoch"], content["step"]


def equal_runs(first: Path, second: Path) -> bool:
    return all(same(outcome(first / name), outcome(second / name)) for name in ("iframe", "mv"))


@pytest.mark.slow  # kills
def test_killed_between_the_saves_of_two_streams(
    demo: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An epoch saves at its steps 1, 2 and 3 and at its end, each time both streams."""
    places = []
    for saves in (1, 5, 3, 6):  # the first run is killed after its first save, the next after its fifth, ...
        left = [saves]

        def save(trainer: Any, left: list[int] = left, *, resumable: bool = True) -> None:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            save_state(trainer, resumable=resumable)

        monkeypatch.setattr(trainer_module, "save_state", save)
        with pytest.raises(Killed):
            train(pair(demo, tmp_path), resume=True)
        places.append([reached(tmp_path / name) for name in ("iframe", "mv")])
    assert places == [[(0, 1), None], [(0, 3), (0, 2)], [(1, 0), (0, 3)], [(1, 3), (1, 2)]]
    monkeypatch.undo()
    train(pair(demo, tmp_path), resume=True)
    assert equal_runs(tmp_path, whole)


@pytest.mark.slow
def test_one_stream_is_further_than_the_other(demo: Path, whole: Path, tmp_path: Path) -> None:
    """By an epoch and some steps, or done altogether."""
    configs = pair(demo, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module, "train_step", stop_before(6))
        with pytest.raises(Killed):
            train({"iframe": configs["iframe"]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module, "train_step", stop_before(2))
        with pytest.raises(Killed):
            train({"mv": configs["mv"]})
    shutil.copytree(tmp_path / "mv", tmp_path / "again/mv")
    shutil.copytree(whole / "iframe", tmp_path / "again/iframe")
    train(configs, resume=True)
    assert equal_runs(tmp_path, whole)
    train(pair(demo, tmp_path / "again"), resume=True)
    assert equal_runs(tmp_path / "again", whole)


def stop_before(number: int) -> Any:
    """A step that ends the process when it is called for the so-manieth time, from 0."""
    calls = []

    def step(*arguments: Any) -> None:
        if len(calls) == number:
            raise Killed
        calls.append(1)
        train_step(*arguments)

    return step


def test_interrupted_in_mid_epoch_all_streams_are_saved(
    demo: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def interrupt(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) == 5:  # the first stream's third step
            os.kill(os.getpid(), signal.SIGINT)
        train_step(*arguments)

    monkeypatch.setattr(trainer_module, "train_step", interrupt)
    with pytest.raises(
        Interrupted, match=r"stopped in epoch 1, after step 3: .*iframe/last\.pt, .*mv/last\.pt; .*--resume"
    ):
        train(pair(demo, tmp_path))
    monkeypatch.undo()
    train(pair(demo, tmp_path), resume=True)
    assert equal_runs(tmp_path, whole)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train": {"batch_size": 2}}, r"train\.batch_size \(4 against 2\)"),
        ({"train": {"accumulate": 2}}, r"train\.accumulate \(1 against 2\)"),
        ({"train": {"precision": "bf16"}}, r"train\.precision \(fp32 against bf16\)"),
        ({"seed": 1}, r"seed \(0 against 1\)"),
        ({"setting": "attention"}, r"setting \(baseline against attention\)"),
        ({"data": {"train_list": "other.txt"}}, r"data\.train_list \(.* against other\.txt\)"),
        ({"data": {"on_error": "skip"}}, r"data\.on_error \(raise against skip\)"),
    ],
)
def test_runs_that_cannot_share_their_clips_are_refused(
    demo: Path, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    configs = small_configs(demo, tmp_path / "run", ("iframe", "mv"), mv=changes)
    with pytest.raises(ConfigError, match=rf"the iframe and the mv stream differ in {says}; .*--set .*one by one") as e:
        train(configs)
    assert "\n" not in str(e.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("freeze", [False, True])
def test_a_clip_in_both_lists_is_refused_before_anything_is_removed(demo: Path, tmp_path: Path, freeze: bool) -> None:
    clips = (demo / "lists/train_split1.txt").read_text().splitlines()[-1:]
    (tmp_path / "val.txt").write_text("\n".join([(demo / "lists/test_split1.txt").read_text(), *clips]))
    (tmp_path / "run").mkdir()
    (tmp_path / "run/last.pt").touch()
    data, model = {"val_list": str(tmp_path / "val.txt")}, {"freeze": freeze}
    with pytest.raises(DataError) as caught:
        train_streams({"mv": small_config(demo, tmp_path / "run", data=data, model=model)}, overwrite=True)
    lists = f"{demo}/lists/train_split1.txt and {tmp_path}/val.txt"
    remedy = "name each clip in one of them, or set data.val_list=null"
    assert str(caught.value) == f"{lists}: 1 clip in both lists, first {clips[0].split()[0]}; {remedy}"
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["last.pt"]


def test_two_of_one_stream_are_refused(demo: Path, tmp_path: Path) -> None:
    configs = {name: small_config(demo, tmp_path / name) for name in ("mv", "mv_other")}
    with pytest.raises(ConfigError, match="two mv streams cannot be trained together; train them one by one"):
        train(configs)


def test_patience_stops_one_stream_while_the_others_go_on(demo: Path, tmp_path: Path) -> None:
    configs = small_configs(
        demo,
        tmp_path / "together",
        ("iframe", "mv"),
        train={"epochs": 4, "val_every": 1},
        mv={"train": {"patience": 1, "lr": 1e-12, "weight_decay": 0.0}},
    )
    train(configs)
    expected = alone(configs, tmp_path)
    assert expected["mv"]["epoch"] < expected["iframe"]["epoch"] == 4
    for name in configs:
        assert same(outcome(tmp_path / "together" / name), expected[name]), name
