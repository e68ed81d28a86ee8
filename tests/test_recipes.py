"""Options of training: mixup, patience, dry runs, what a run folder holds."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from demo import demo_settings
from hypothesis import given
from hypothesis import strategies as st

from coviar_mocrop.checkpoint import load_checkpoint
from coviar_mocrop.config import Config
from coviar_mocrop.datasets.demo import make_demo
from coviar_mocrop.errors import ConfigError
from coviar_mocrop.flops import count_flops
from coviar_mocrop.networks.config import ModelConfig
from coviar_mocrop.networks.stream_net import create_network
from coviar_mocrop.training.config import RateFactors, TrainConfig
from coviar_mocrop.training.dry_run import dry_run
from coviar_mocrop.training.optim import mixup, parameter_groups
from coviar_mocrop.training.state import Progress
from coviar_mocrop.training.trainer import train


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    make_demo(folder / "videos", folder / "lists", train_clips=8, test_clips=8, progress=False)
    return folder


def run_config(demo: Path, output: Path, **train_settings: Any) -> Config:
    values = demo_settings(
        demo,
        output,
        input={"full_size": 32, "segments": 1, "test_segments": 2},
        train={"epochs": 4, "batch_size": 4, "precision": "fp32", "threads": 1, **train_settings},
    )
    return Config.model_validate(values)


@given(seed=st.integers(0, 1000), clips=st.integers(1, 6), alpha=st.floats(0.05, 5))
def test_mixed_clips_and_targets_agree(seed: int, clips: int, alpha: float) -> None:
    """A clip that holds nothing but its class shows the same shares in picture and target."""
    labels = torch.arange(clips)
    frames = torch.nn.functional.one_hot(labels, clips).float()[:, None, :].expand(clips, 3, clips)
    mixed, targets = mixup(frames, labels, clips, alpha, np.random.default_rng(seed))
    torch.testing.assert_close(mixed[:, 0], targets)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(clips))
    again = mixup(frames, labels, clips, alpha, np.random.default_rng(seed))
    assert torch.equal(mixed, again[0])


def test_a_network_need_not_name_its_layers() -> None:
    config = TrainConfig(lr=1.0, weight_decay=0.5, rate_factors=RateFactors(rest=0.1))
    groups = parameter_groups(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LayerNorm(2)), config)
    assert sorted((group["lr"], group["weight_decay"], len(group["params"])) for group in groups) == [
        (0.1, 0.0, 3),
        (0.1, 0.5, 1),
    ]


def test_mixup_trains_otherwise_and_alike(demo: Path, tmp_path: Path) -> None:
    states = []
    for name, alpha in (("a", 0.0), ("b", 0.4), ("c", 0.4)):
        states.append(load_checkpoint(train(run_config(demo, tmp_path / name, mixup=alpha, epochs=1)))["model"])
    key = "backbone.fc.weight"
    assert not torch.equal(states[0][key], states[1][key])
    assert torch.equal(states[1][key], states[2][key])


def test_patience_ends_a_run_that_no_longer_gains(demo: Path, tmp_path: Path) -> None:
    # at this rate nothing changes, so the first test stays the best
    best = train(run_config(demo, tmp_path, lr=1e-12, epochs=9, test_every=1, patience=2, weight_decay=0.0))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    tops = [line["test_top1"] for line in lines]
    first_best = int(np.argmax(tops))
    assert len(lines) == first_best + 3 < 9
    assert load_checkpoint(best)["epoch"] == first_best + 1
    train(run_config(demo, tmp_path, lr=1e-12, epochs=9, test_every=1, patience=2, weight_decay=0.0), resume=True)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == len(lines)  # resumed, it is still done
    with pytest.raises(ConfigError, match="test_every"):
        Config(**{**run_config(demo, tmp_path).model_dump(), "train": {"patience": 2}})


def test_best_is_the_first_of_equals() -> None:
    progress = Progress(epoch=1, history=[{"epoch": 0, "test_top1": 0.5}])
    assert progress.is_best
    progress.history.append({"epoch": 1, "test_top1": 0.5})
    progress.epoch = 2
    assert (progress.is_best, progress.epochs_since_best, progress.best) == (False, 1, 0.5)
    progress.history.append({"epoch": 2})
    progress.epoch = 3
    assert (progress.is_best, progress.epochs_since_best) == (False, 2)


def test_a_dry_run_tells_and_writes_nothing(demo: Path, tmp_path: Path) -> None:
    config = run_config(demo, tmp_path / "run")
    found = dry_run(config)
    assert not (tmp_path / "run").exists()
    model = create_network(2, 8, ModelConfig(), input_norm=True)
    assert found.shape == (4, 1, 2, 32, 32)
    assert found.parameters == found.trainable == sum(p.numel() for p in model.parameters())
    assert found.gflops_per_frame == count_flops(model, (1, 1, 2, 32, 32)) / 1e9
    assert found.gflops_per_clip == pytest.approx(2 * found.gflops_per_frame)
    assert (found.steps_per_epoch, found.tested) == (2, 8)
    assert 1.0 < found.loss < 5.0
    text = "\n".join(found.lines)
    for word in ("4 x 1 x 2 x 32 x 32", "M parameters", "GFLOPs", "GB", "nothing written"):
        assert word in text


def test_a_run_folder_says_what_made_it(demo: Path, tmp_path: Path) -> None:
    train(run_config(demo, tmp_path, epochs=2, test_every=2))
    part = json.loads((tmp_path / "run.json").read_text())["parts"][0]
    assert part["versions"]["torch"] == torch.__version__.split("+")[0] or part["versions"]["torch"]
    assert {"command", "started", "python", "system", "compute", "processes"} <= part.keys()
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert [row["test_top1"] != "" for row in rows] == [False, True]


def test_overwriting_leaves_nothing_of_the_older_run(demo: Path, tmp_path: Path) -> None:
    train(run_config(demo, tmp_path, epochs=2, test_every=1))
    before = set(tmp_path.glob("events.*"))
    train(run_config(demo, tmp_path, epochs=1), overwrite=True)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
    assert load_checkpoint(tmp_path / "best.pt")["epoch"] == 1
    assert not before & set(tmp_path.glob("events.*"))


def test_half_precision_with_a_scaler_trains_and_resumes(demo: Path, tmp_path: Path) -> None:
    values = run_config(demo, tmp_path, precision="fp16", epochs=1)
    train(values)
    content = load_checkpoint(tmp_path / "last.pt")
    assert content["scaler"]["scale"] > 0
    assert np.isfinite(content["history"][0]["loss"])
    assert all(torch.isfinite(value).all() for value in content["model"].values())
