"""Training one stream: what a run leaves behind, resuming, checkpoints, and options such as patience and mixup."""

from __future__ import annotations

import csv
import json
import pickle
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from clips import read_packets
from demo import BACKBONE, open_list, outcome, same, small_config, weights_of
from hypothesis import given
from hypothesis import strategies as st

import coviar_mocrop.training.trainer as trainer_module
from coviar_mocrop.bitstream import Gop
from coviar_mocrop.checkpoint import load_checkpoint, save_checkpoint
from coviar_mocrop.clips.cache import open_box_cache
from coviar_mocrop.clips.lists import read_videos
from coviar_mocrop.clips.reader import ReadViews
from coviar_mocrop.clips.stores import open_store
from coviar_mocrop.config import Config
from coviar_mocrop.datasets.lists import Form
from coviar_mocrop.errors import CheckpointError, ConfigError, CoviarMocropError, DataError, ListError
from coviar_mocrop.files import write_json
from coviar_mocrop.flops import count_flops
from coviar_mocrop.inference.export import export_run
from coviar_mocrop.inference.testing import load_stream, score_checkpoint, score_streams
from coviar_mocrop.mocrop import MoCropSettings
from coviar_mocrop.networks.config import ModelConfig
from coviar_mocrop.networks.stream_net import create_network
from coviar_mocrop.runtime import ALONE, Group, choose_runtime
from coviar_mocrop.streams.base import create_stream
from coviar_mocrop.training import setup
from coviar_mocrop.training.config import RateFactors, TrainConfig
from coviar_mocrop.training.dry_run import dry_run
from coviar_mocrop.training.optim import mixup, parameter_groups
from coviar_mocrop.training.saving import load_state, save_state
from coviar_mocrop.training.state import Metrics, TrainState
from coviar_mocrop.viz.show import log_pictures


def train(config: Config, **options: Any) -> Path:
    """Train one stream; gives its checkpoint."""
    return trainer_module.train({config.stream: config}, **options)[config.stream]


@pytest.fixture(scope="module")
def trained(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never interrupted."""
    return train(small_config(demo, tmp_path_factory.mktemp("run")))


def history(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_everything_behind(demo: Path, tmp_path: Path) -> None:
    folder = train(small_config(demo, tmp_path), draw=log_pictures).parent
    names = {path.name for path in folder.iterdir()}
    assert {"best.pt", "last.pt", "settings.yaml", "run.json", "metrics.jsonl", "metrics.csv"} <= names
    lines = history(folder)
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert {"loss", "top1", "lr", "clips_per_second", "waiting_for_data"} <= lines[0].keys()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    assert {"train/loss", "train/top1", "train/lr", "train/waiting_for_data"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3]
    assert len(events.Tags()["images"]) == 4
    part = json.loads((folder / "run.json").read_text())["parts"][0]
    assert part["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"command", "started", "python", "system", "compute", "processes"} <= part.keys()


def test_the_boxes_of_both_lists_are_kept(demo: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"data": {"cache": str(tmp_path / "cache")}, "train": {"epochs": 1, "val_every": 1}}
    config = small_config(demo, tmp_path / "run", setting="attention", **changes)
    train(config)
    boxes = open_box_cache(config.data, config.mocrop, open_store(config.data))
    for part in ("train", "val"):
        names = [clip.path for clip in read_videos(config.data, part).clips]
        assert all(boxes.get(name) is not None for name in names), part


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker")
def test_same_seed_same_bits_other_seed_other_bits(demo: Path, trained: Path, tmp_path: Path) -> None:
    for workers in (1, 4):
        again = train(small_config(demo, tmp_path / str(workers), data={"workers": workers}))
        assert same(outcome(again.parent), outcome(trained.parent))
    other = train(small_config(demo, tmp_path / "other", seed=1, train={"epochs": 1}))
    assert not same(weights_of(other), weights_of(trained))


def test_interrupted_between_epochs_and_resumed_it_ends_the_same(
    demo: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(trainer: Any) -> None:
        if trainer.state.epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer_module, "report_epoch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(small_config(demo, tmp_path, train={"save_minutes": 0}))
    assert load_checkpoint(tmp_path / "last.pt")["epoch"] == 2
    monkeypatch.undo()
    (tmp_path / ".last.abcdefgh.pt").write_bytes(b"half a checkpoint")  # left by a kill
    train(small_config(demo, tmp_path), resume=True)
    assert same(outcome(tmp_path), outcome(trained.parent))
    assert not list(tmp_path.glob(".*"))
    assert len(history(tmp_path)) == 3
    assert len(json.loads((tmp_path / "run.json").read_text())["parts"]) == 2


def test_what_resuming_needs_is_written_when_it_is_due_and_at_the_end(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[int, bool]] = []

    def save(trainer: Any, *, resumable: bool = True) -> None:
        written.append((trainer.state.epoch, resumable))
        save_state(trainer, resumable=resumable)

    monkeypatch.setattr(trainer_module, "save_state", save)
    train(small_config(demo, tmp_path))
    assert written == [(1, True), (2, False), (3, True)]


def test_best_holds_nothing_to_resume_from(trained: Path) -> None:
    resuming = {"optimizer", "schedule", "scaler", "sums"}
    assert not resuming & load_checkpoint(trained).keys()
    assert resuming < load_checkpoint(trained.with_name("last.pt")).keys()


def test_sums_stay_on_the_device_until_they_are_shown(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each number that a step fetched from a GPU would wait for all its work."""
    real, steps = trainer_module.train_step, []

    def step(trainer: Any, *arguments: Any) -> None:
        with monkeypatch.context() as patch:
            for name in ("__float__", "__bool__", "item", "tolist", "cpu"):
                patch.setattr(torch.Tensor, name, lambda *_, name=name: pytest.fail(f"a tensor is fetched: {name}"))
            real(trainer, *arguments)
        steps.append(trainer.state.metrics)

    monkeypatch.setattr(trainer_module, "train_step", step)
    train(small_config(demo, tmp_path, train={"epochs": 1}))
    assert all(isinstance(value, torch.Tensor) for sums in steps for value in (sums.loss, sums.correct))
    assert len(steps) == 2


def test_processes_do_not_send_buffers_at_every_step(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Running statistics are handed on before a validation."""
    asked: dict[str, Any] = {}
    monkeypatch.setattr(setup, "DistributedDataParallel", lambda model, **options: asked.update(options) or model)
    config = small_config(demo, tmp_path)
    stream = create_stream(config, ("jump",), weights=False)
    loader: Any = SimpleNamespace(clips=SimpleNamespace(features={}))
    setup._create_trainer(stream, loader, 1, choose_runtime(config.train), Group(0, 2), {})
    assert False in (asked.get("broadcast_buffers"), asked.get("forward_sync_buffers"))


def test_a_run_is_not_replaced_by_accident(demo: Path, trained: Path) -> None:
    before = {path.name: path.read_bytes() for path in trained.parent.iterdir()}
    with pytest.raises(ConfigError, match=r"already holds a run.*--resume.*--overwrite"):
        train(small_config(demo, trained.parent, seed=5))
    assert {path.name: path.read_bytes() for path in trained.parent.iterdir()} == before


def test_resuming_with_other_settings_is_refused(demo: Path, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"other settings \(train\.lr: 0\.001, now 0\.5\)"):
        train(small_config(demo, trained.parent, train={"lr": 0.5}), resume=True)
    with pytest.raises(CheckpointError, match=r"other settings \(data\.anchor_every: 12, now 6\)"):
        train(small_config(demo, trained.parent, data={"anchor_every": 6}), resume=True)
    lines = (demo / "lists/train_split1.txt").read_text().splitlines()
    (tmp_path / "same.txt").write_text("\n".join(lines))
    free = {"train_list": str(tmp_path / "same.txt"), "on_error": "skip"}  # what an unreadable clip's error advises
    train(small_config(demo, trained.parent, data=free), resume=True)
    (tmp_path / "other.txt").write_text("\n".join([*lines[1:], lines[0]]))
    with pytest.raises(CheckpointError, match=r"data\.train_list names other clips or labels"):
        train(small_config(demo, trained.parent, data={"train_list": str(tmp_path / "other.txt")}), resume=True)


def test_a_run_whose_epochs_were_counted_from_0_goes_on(demo: Path, trained: Path, tmp_path: Path) -> None:
    """As checkpoints of earlier versions are."""
    content = load_checkpoint(trained.parent / "last.pt")
    content["history"] = [{**line, "epoch": line["epoch"] - 1} for line in content["history"]]
    content["config"]["train"] |= {"epochs": 4, "schedule": "constant"}
    save_checkpoint(tmp_path / "last.pt", content)
    train(small_config(demo, tmp_path, train={"epochs": 4, "schedule": "constant"}), resume=True)
    assert [line["epoch"] for line in history(tmp_path)] == [1, 2, 3, 4]


def test_a_finished_run_goes_on_where_the_schedule_allows(demo: Path, tmp_path: Path) -> None:
    def config(name: str, epochs: int, schedule: str = "constant") -> Config:
        return small_config(demo, tmp_path / name, train={"epochs": epochs, "schedule": schedule})

    train(config("short", 1))
    train(config("short", 2), resume=True)
    train(config("long", 2))
    assert same(outcome(tmp_path / "short"), outcome(tmp_path / "long"))
    with pytest.raises(CheckpointError, match="has done 2 epochs already"):
        train(config("long", 1), resume=True)
    for name, key in (("cosine", r"model\.weights"), ("all/mv", r"streams\.mv\.model\.weights")):
        train(config(name, 1, "cosine"))
        with pytest.raises(CheckpointError, match=rf"cosine schedule ends after 1 epochs.*--set {key}="):
            train(config(name, 2, "cosine"), resume=True)


def test_a_run_no_longer_than_its_warm_up_is_made_longer(
    demo: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def config(name: str, epochs: int) -> Config:
        settings = {"epochs": epochs, "batch_size": 8, "schedule": "constant", "warmup_epochs": 1}  # a step an epoch
        return small_config(demo, tmp_path / name, train=settings)

    train(config("short", 1))
    with caplog.at_level("INFO"):
        train(config("short", 2), resume=True)
    assert "in epoch 2, after step 0" in caplog.text
    train(config("long", 2))
    assert same(outcome(tmp_path / "short"), outcome(tmp_path / "long"))


def test_the_test_list_is_never_opened(demo: Path, tmp_path: Path) -> None:
    """The best epoch is that of the validation list, tested as validation does: few segments, one crop."""
    data = {"test_list": str(tmp_path / "none.txt")}
    inputs = {"full_size": 32, "reduced_size": 24, "segments": 2, "test_segments": 9, "test_crops": 10}
    config = small_config(demo, tmp_path / "run", data=data, input=inputs, train={"val_every": 1})
    dry_run({"mv": config})
    content = load_checkpoint(train(config))
    tops = [line["val_top1"] for line in history(tmp_path / "run")]
    assert content["epoch"] == 1 + int(np.argmax(tops))
    protocol = ["input.test_segments=2", "input.test_crops=1"]
    scored = score_streams([load_stream(tmp_path / "run/best.pt", protocol)], "val")["mv"]
    assert scored.top1 == max(tops)
    with pytest.raises(ListError, match=r"none\.txt: no such list"):
        score_checkpoint(tmp_path / "run/best.pt")


def test_without_a_validation_list_the_last_epoch_is_the_result(demo: Path, tmp_path: Path) -> None:
    data = {"val_list": None, "test_list": str(tmp_path / "none.txt")}
    best = train(small_config(demo, tmp_path / "run", data=data, train={"val_every": 1}))
    assert (best.name, load_checkpoint(best)["epoch"]) == ("best.pt", 3)
    assert same(weights_of(best), weights_of(best.with_name("last.pt")))
    assert not any(key.startswith(("val_", "test_")) for line in history(best.parent) for key in line)


def test_validation_is_cheap_and_every_epoch(demo: Path) -> None:
    """One crop; as many segments as in training, or as set."""
    assert TrainConfig().val_every == 1
    for segments, expected in ((None, 2), (5, 5)):
        inputs = {"segments": 2, "test_segments": 9, "test_crops": 10, "val_segments": segments}
        stream = create_stream(small_config(demo, demo, input=inputs), ("jump",), weights=False)
        light = stream.for_validation()
        assert light.network is stream.network
        (view,) = light.views(48, [Gop(0, 48)]).values()
        assert (len(view.frames), len(view.windows((64, 96), None))) == (expected, 1)
        (view,) = stream.views(48, [Gop(0, 48)]).values()
        assert (len(view.frames), len(view.windows((64, 96), None))) == (9, 10)


def test_tensorboard_shows_training_and_validation_under_one_name(demo: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(small_config(demo, tmp_path, train={"val_every": 1, "epochs": 2}))
    events = EventAccumulator(str(tmp_path)).Reload()
    for name in ("top1", "loss"):
        lines = [line[f"val_{name}"] for line in history(tmp_path)]
        assert [point.value for point in events.Scalars(f"val/{name}")] == pytest.approx(lines)
        assert len(events.Scalars(f"train/{name}")) == 2


def test_what_a_stream_learned_from_travels_with_it(demo: Path, tmp_path: Path) -> None:
    form = {"codec": "mpeg4", "size": [96, 64], "gop": 12}
    root = tmp_path / "root"
    shutil.copytree(demo / "videos", root)
    write_json(root / "transcode.json", {"source": "x", **form})
    best = train(small_config(demo, tmp_path, setting="attention", data={"root": str(root)}, train={"epochs": 1}))
    shutil.rmtree(root)
    rules = load_checkpoint(best)["rules"]
    assert rules["videos"] == {**form, "size": (96, 64)}
    assert rules["crop"]["mocrop"] == MoCropSettings().model_dump(mode="json")
    assert (rules["sampling"]["segments"], rules["crop"]["size"], rules["scaling"]["bound"]) == (2, 32, 20)
    card = export_run([best], tmp_path / "mv", formats=["safetensors"])
    assert card["streams"]["mv"]["rules"] == load_stream(best).rules()
    assert load_stream(tmp_path / "mv/mv.safetensors").form == load_stream(best).form == Form("mpeg4", (96, 64), 12)


def test_every_learning_rate_is_logged(demo: Path, tmp_path: Path) -> None:
    factors = {"classifier": 1.0, "stem": 0.1, "rest": 0.01}
    train(small_config(demo, tmp_path, train={"epochs": 1, "schedule": "constant", "rate_factors": factors}))
    (line,) = history(tmp_path)
    rates = {name: value for name, value in line.items() if name.startswith("lr")}
    assert rates == pytest.approx({"lr/classifier": 1e-3, "lr/stem": 1e-4, "lr/rest": 1e-5})


def test_resuming_where_there_is_no_run_says_so(demo: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = small_config(demo, tmp_path / "none", train={"epochs": 1})
    with caplog.at_level("INFO"):
        train(config, resume=True)
        assert "holds no run to continue" in caplog.text
        before = (tmp_path / "none/last.pt").read_bytes()
        train(config, resume=True)
        assert "is finished already (1 epoch)" in caplog.text
    assert (tmp_path / "none/last.pt").read_bytes() == before


def test_a_checkpoint_from_elsewhere_is_not_deleted(demo: Path, trained: Path, tmp_path: Path) -> None:
    config = small_config(demo, tmp_path, train={"epochs": 1})
    best = Path(shutil.copy(trained, tmp_path / "best.pt"))
    before = best.read_bytes()
    with pytest.raises(ConfigError, match=r"already holds a run \(best\.pt\)"):
        train(config)
    with pytest.raises(ConfigError, match=r"best\.pt: was not trained here, so --resume cannot continue it"):
        train(config, resume=True)
    assert best.read_bytes() == before
    train(config, overwrite=True)
    assert best.read_bytes() != before


def test_the_first_epoch_is_saved_to_resume_from(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any save is due. A run that is killed earlier starts from the beginning."""

    def kill(trainer: Any) -> None:
        raise KeyboardInterrupt

    config = small_config(demo, tmp_path, train={"epochs": 2, "val_every": 1})
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr("coviar_mocrop.training.trainer.report_epoch", kill)
        train(config)
    assert load_checkpoint(tmp_path / "last.pt")["epoch"] == 1
    with pytest.raises(ConfigError, match=r"already holds a run \(last\.pt\)"):
        train(config)
    (tmp_path / "last.pt").unlink()  # as if it was killed while best.pt was there alone
    with pytest.raises(ConfigError, match=r"already holds a run \(best\.pt\)"):
        train(config)
    train(config, resume=True)
    assert load_checkpoint(tmp_path / "last.pt")["epoch"] == 2


def test_times_over_processes_are_means_after_any_number_of_saves() -> None:
    class Group:
        """Four processes of one speed, one after the other."""

        world = 4

        def __init__(self, others: list[Metrics]) -> None:
            self.others = others

        def table(self, mine: list[float]) -> torch.Tensor:
            found = [[float(value) for value in vars(other).values()] for other in self.others]
            return torch.tensor([mine, *found], dtype=torch.float64)

    of = [Metrics() for _ in range(4)]
    for _ in range(6):
        for metrics in of:
            metrics.seen, metrics.seconds, metrics.waited = metrics.seen + 10, metrics.seconds + 600, metrics.waited + 6
        whole = of[0].reduce(Group(of[1:]))  # type: ignore[arg-type]
        of = [whole, *[whole.times() for _ in range(3)]]
    assert (whole.seen, whole.seconds, whole.waited) == (240, 3600, 36)


def test_training_and_testing_tell_of_damaged_frames(
    demo: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "root"
    shutil.copytree(demo / "videos", root)
    names = [(demo / f"lists/{part}_split1.txt").read_text().split()[0] for part in ("train", "test")]
    for name in names:
        data = (root / name).read_bytes()
        for lost in [packet for number, packet in enumerate(read_packets(root / name)) if number % 12]:
            data = data.replace(lost, bytes([*lost[:12], *bytes(len(lost) - 12)]))
        (root / name).write_bytes(data)
    config = small_config(demo, tmp_path / "run", data={"root": str(root)}, train={"epochs": 2, "val_every": 1})
    best = train(config)
    damaged = r"1 of 8 {} clips have damaged frames \(\d+ frames\): {}"
    assert len(re.findall(damaged.format("training", names[0]), caplog.text)) == 1
    assert len(re.findall(damaged.format("validation", names[1]), caplog.text)) == 1
    caplog.clear()
    score_checkpoint(best)
    assert len(re.findall(damaged.format("test", names[1]), caplog.text)) == 1


def test_the_best_epoch_is_kept(demo: Path, tmp_path: Path) -> None:
    best = train(small_config(demo, tmp_path, train={"val_every": 1}))
    tops = [line["val_top1"] for line in history(tmp_path)]
    content = load_checkpoint(best)
    assert content["epoch"] == 1 + int(np.argmax(tops))
    assert score_checkpoint(best, ["input.test_segments=1"]).top1 == max(tops)  # here the test list is the same


def test_training_learns(demo: Path, tmp_path: Path) -> None:
    model, inputs = {"dropout": 0.0}, {"full_size": 48, "flip": False, "scales": (1.0,)}
    train(small_config(demo, tmp_path, model=model, input=inputs, train={"epochs": 10, "lr": 1e-2, "mixup": 0}))
    lines = history(tmp_path)
    assert lines[-1]["loss"] < 0.7 * lines[0]["loss"]


def test_overwriting_leaves_nothing_of_the_older_run(demo: Path, tmp_path: Path) -> None:
    train(small_config(demo, tmp_path, train={"epochs": 2, "val_every": 2}))
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["val_top1"] != "") for row in rows] == [("1", False), ("2", True)]
    before = set(tmp_path.glob("events.*"))
    train(small_config(demo, tmp_path, train={"epochs": 1}), overwrite=True)
    assert len(history(tmp_path)) == 1
    assert load_checkpoint(tmp_path / "best.pt")["epoch"] == 1
    assert not before & set(tmp_path.glob("events.*"))


def test_half_precision_with_a_scaler_trains(demo: Path, tmp_path: Path) -> None:
    train(small_config(demo, tmp_path, train={"precision": "fp16", "epochs": 1}))
    content = load_checkpoint(tmp_path / "last.pt")
    assert content["scaler"]["scale"] > 0
    assert np.isfinite(content["history"][0]["loss"])
    assert all(torch.isfinite(value).all() for value in content["model"].values())


# -- scores ----------------------------------------------------------------------------------------------


def test_scores_are_the_networks_and_say_what_made_them(trained: Path) -> None:
    facts = score_checkpoint(trained, ["setting=efficiency", "input.test_crops=10"]).settings
    assert (facts["stream"], facts["setting"], facts["size"], facts["segments"]) == ("mv", "efficiency", 24, 2)
    assert facts["gflops_per_clip"] == pytest.approx(20 * facts["gflops_per_frame"])
    stream = load_stream(trained)
    assert facts["gflops_per_frame"] == count_flops(stream.network, (1, 1, 2, 24, 24)) / 1e9
    plain = score_checkpoint(trained)
    dataset, _ = open_list([stream], "test")
    for index in (0, 5):
        read = dataset[0, index, None].inputs["mv"]
        assert isinstance(read, ReadViews)
        with torch.inference_mode():
            expected = stream.network(stream.encode(read))[0].numpy()
        np.testing.assert_allclose(plain.scores[index], expected, atol=1e-4)
        assert plain.names[index] == dataset.videos.clips[index].path
    again = score_checkpoint(trained, ["data.workers=2"])
    np.testing.assert_array_equal(plain.scores, again.scores)


def test_a_stream_cannot_be_tested_as_another(trained: Path) -> None:
    with pytest.raises(CheckpointError, match="is a mv stream; it cannot be tested as iframe"):
        load_stream(trained, ["stream=iframe"])


def test_other_classes_are_refused(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("a\nb\n")
    (tmp_path / "l.txt").write_text("x.mp4 a 0\n")
    with pytest.raises(CheckpointError, match="8 against 2"):
        score_checkpoint(trained, [f"data.classes={tmp_path}/c.txt", f"data.test_list={tmp_path}/l.txt"])


# -- checkpoints -----------------------------------------------------------------------------------------


def test_checkpoints_are_refused_with_reason(trained: Path, tmp_path: Path) -> None:
    whole = trained.read_bytes()
    cases: dict[str, bytes] = {"empty": b"", "text": b"hello", "half": whole[: len(whole) // 2]}
    for name, content in cases.items():
        (tmp_path / f"{name}.pt").write_bytes(content)
        with pytest.raises(CheckpointError, match=f"{name}.pt") as caught:
            load_checkpoint(tmp_path / f"{name}.pt")
        assert "\n" not in str(caught.value)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    (tmp_path / "flipped.pt").write_bytes(flipped)
    with pytest.raises(CheckpointError, match="checksum differs"):
        load_checkpoint(tmp_path / "flipped.pt")
    with pytest.raises(CheckpointError, match="no such file; make a checkpoint"):
        load_checkpoint(tmp_path / "none.pt")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "foreign.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of"):
        load_checkpoint(tmp_path / "foreign.pt")
    changed = load_checkpoint(trained)
    changed["config"]["model"]["backbone"] = "mobilenet_v3_large"
    save_checkpoint(tmp_path / "wrong.pt", changed)
    with pytest.raises(CheckpointError, match="does not fit the network"):
        load_stream(tmp_path / "wrong.pt")


def test_a_run_that_cannot_be_taken_up_is_refused(demo: Path, trained: Path, tmp_path: Path) -> None:
    """One error that names the file, whatever a part of it is or lacks; nothing of it is run."""
    (trainer,) = setup.prepare({"mv": small_config(demo, tmp_path)}, ALONE).trainers
    content = load_checkpoint(trained.parent / "last.pt")
    without_train = {key: value for key, value in content["config"].items() if key != "train"}
    changes: dict[str, Any] = dict.fromkeys(("epoch", "step", "history", "lists", "sums", "optimizer"), "x")
    for part, value in [
        *changes.items(),
        ("epoch", torch.zeros(3)),
        ("history", [1]),
        ("sums", {**content["sums"], "loss": "x"}),
        ("optimizer", {"state": {}, "param_groups": []}),
        ("optimizer", {"state": 1, "param_groups": 1}),
        ("config", without_train),
    ]:
        torch.save({**content, part: value}, tmp_path / "last.pt")
        with pytest.raises(CheckpointError, match=rf"^{tmp_path}/last\.pt: ") as caught:
            load_state(trainer)
        assert "\n" not in str(caught.value)
    for part in ("epoch", "step", "history", "sums", "optimizer", "schedule", "scaler"):
        torch.save({key: value for key, value in content.items() if key != part}, tmp_path / "last.pt")
        with pytest.raises(CheckpointError, match=rf"^{tmp_path}/last\.pt: "):
            load_state(trainer)


class Malicious:
    """Pickles into a call."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_malicious_checkpoint_runs_nothing(tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    torch.save({"format": 1, "model": Malicious(trace)}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Malicious(trace)))
    for name in ("a.pt", "b.pt"):
        with pytest.raises(CheckpointError, match="safe"):
            load_checkpoint(tmp_path / name)
    assert not trace.exists()


# -- what a user gets wrong ------------------------------------------------------------------------------


def list_of_one(demo: Path, path: Path) -> str:
    """A list whose only clip is missing."""
    name = (demo / "lists/classes.txt").read_text().split()[0]
    path.write_text(f"missing.mp4 {name} 0\n")
    return str(path)


def test_a_missing_root_is_told_before_anything_is_written(demo: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nope: is not a folder; make it with coviar prepare, or set data\.root"):
        train(small_config(demo, tmp_path / "run", data={"root": str(tmp_path / "nope")}))
    assert not (tmp_path / "run").exists()


def test_a_first_clip_that_fails_leaves_no_run_in_the_way(demo: Path, tmp_path: Path) -> None:
    with pytest.raises(CoviarMocropError, match=r"missing\.mp4"):
        train(small_config(demo, tmp_path / "run", data={"train_list": list_of_one(demo, tmp_path / "l.txt")}))
    assert not (tmp_path / "run/last.pt").exists()


@pytest.mark.parametrize("setting", ["baseline", "attention"])
def test_no_clip_left_is_an_error(demo: Path, tmp_path: Path, setting: str) -> None:
    data = {"train_list": list_of_one(demo, tmp_path / "l.txt"), "on_error": "skip"}
    with pytest.raises(DataError, match="none of"):
        train(small_config(demo, tmp_path / setting, setting=setting, data=data))


def test_the_schedule_counts_steps_without_a_usable_clip(demo: Path, tmp_path: Path) -> None:
    """Otherwise the learning rate would fall later than the settings say."""
    lines = (demo / "lists/train_split1.txt").read_text().splitlines()
    (tmp_path / "l.txt").write_text("\n".join([*lines, f"missing.mp4 {lines[0].split()[1]} 0"]))
    data = {"train_list": str(tmp_path / "l.txt"), "on_error": "skip"}
    train(small_config(demo, tmp_path / "run", data=data, input={"segments": 2}, train={"epochs": 1, "batch_size": 1}))
    content = load_checkpoint(tmp_path / "run/last.pt")
    assert (len(lines), content["schedule"]["last_epoch"]) == (8, 9)


def test_a_run_goes_on_in_another_precision(demo: Path, trained: Path) -> None:
    """fp16 needs a scaler, whose state other precisions do not have."""
    run = setup.prepare({"mv": small_config(demo, trained.parent)}, ALONE)
    run.trainers[0].scaler = torch.amp.GradScaler("cpu")
    load_state(run.trainers[0])
    assert run.trainers[0].scaler.get_scale() == 65536


def test_motion_squeeze_needs_two_frames_in_validation_too(demo: Path, tmp_path: Path) -> None:
    config = small_config(
        demo,
        tmp_path,
        stream="iframe",
        input={"segments": 2, "test_segments": 2, "val_segments": 1},
        model={"backbone": "resnet18", "motion_squeeze": True},
    )
    with pytest.raises(ConfigError, match=r"input\.val_segments to 2 or more"):
        create_stream(config, list("ab"), weights=False)


def test_logits_of_frames_are_averaged_in_float32() -> None:
    """Averages in bfloat16 have so few bits that classes tie."""
    network = create_network(2, 5, ModelConfig(backbone="resnet18")).eval()
    clips = torch.randn(2, 1, 3, 2, 32, 32)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        logits, frames = network(clips), network.frame_outputs(clips)
    assert (frames.dtype, logits.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(logits, frames.float().mean(dim=(1, 2)))


def test_skipped_clips_of_all_processes_are_counted(trained: Path) -> None:
    class Two(Group):
        def gather(self, value: Any) -> list[Any]:
            return [value, {"theirs.mp4": "is damaged"}] if isinstance(value, dict) else [value]

    scored = score_streams([load_stream(trained)], "val", group=Two())["mv"]
    assert (len(scored.names), scored.settings["skipped"]) == (8, 1)


def test_a_read_only_output_is_one_error(demo: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CoviarMocropError, match="file"):
        train(small_config(demo, tmp_path / "file" / "run"))


def test_fewer_clips_than_micro_batches_are_refused(demo: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"batch_size 16, 8 clips make steps of 8, fewer than the 9 micro-batches"):
        train(small_config(demo, tmp_path, train={"batch_size": 16, "accumulate": 9}))
    with pytest.raises(ConfigError, match=r"batch_size 5, 8 clips make steps of 4, fewer than the 5 micro-batches"):
        train(small_config(demo, tmp_path, train={"batch_size": 5, "accumulate": 5}))


def test_batch_statistics_over_processes_need_gpus() -> None:
    with pytest.raises(ConfigError, match="sync_bn needs GPUs; leave it out"):
        setup.convert_batch_norms(torch.nn.Sequential(torch.nn.BatchNorm2d(2)), torch.device("cpu"))


# -- options ---------------------------------------------------------------------------------------------


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


def test_mixup_changes_training(demo: Path, trained: Path, tmp_path: Path) -> None:
    plain = train(small_config(demo, tmp_path, train={"mixup": 0.0}))
    assert not same(weights_of(plain), weights_of(trained))


def test_a_network_need_not_name_its_layers() -> None:
    config = TrainConfig(lr=1.0, weight_decay=0.5, rate_factors=RateFactors(rest=0.1))
    groups = parameter_groups(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LayerNorm(2)), config)
    assert sorted((group["lr"], group["weight_decay"], len(group["params"])) for group in groups) == [
        (0.1, 0.0, 3),
        (0.1, 0.5, 1),
    ]


def test_patience_ends_a_run_that_no_longer_gains(demo: Path, tmp_path: Path) -> None:
    # at this rate nothing changes, so the first test stays the best
    settings = {"lr": 1e-12, "epochs": 9, "val_every": 1, "patience": 2, "weight_decay": 0.0}
    best = train(small_config(demo, tmp_path, train=settings))
    tops = [line["val_top1"] for line in history(tmp_path)]
    first_best = int(np.argmax(tops))
    assert len(tops) == first_best + 3 < 9
    assert load_checkpoint(best)["epoch"] == first_best + 1
    train(small_config(demo, tmp_path, train=settings), resume=True)
    assert len(history(tmp_path)) == len(tops)  # resumed, it is still done
    with pytest.raises(ConfigError, match=r"set data\.val_list, and train\.val_every"):
        train(small_config(demo, tmp_path / "none", data={"val_list": None}, train=settings))


def test_best_is_the_first_of_equals() -> None:
    state = TrainState(epoch=1, history=[{"epoch": 1, "val_top1": 0.5}])
    assert state.is_best
    state.history.append({"epoch": 2, "val_top1": 0.5})
    state.epoch = 2
    assert (state.is_best, state.epochs_since_best, state.best) == (False, 1, 0.5)
    state.history.append({"epoch": 3})
    state.epoch = 3
    assert (state.is_best, state.epochs_since_best) == (False, 2)


def test_a_dry_run_tells_and_writes_nothing(demo: Path, tmp_path: Path) -> None:
    config = small_config(demo, tmp_path / "run", train={"val_every": 1})
    text = "\n".join(dry_run({"mv": config}))
    assert not (tmp_path / "run").exists()
    assert "already holds a run" not in text and "untrained" not in text
    network = create_network(2, 8, ModelConfig(backbone=BACKBONE, dropout=0.2), input_norm=True)
    gflops = count_flops(network, (1, 1, 2, 32, 32)) / 1e9
    total = sum(p.numel() for p in network.parameters()) / 1e6
    for words in (
        "input 4 x 1 x 1 x 2 x 32 x 32",
        f"{total:.2f} M parameters, {total:.2f} M of them trained",
        f"{gflops:.3f} GFLOPs a frame, {2 * gflops:.2f} a test clip",
        "8 clips, 2 steps an epoch, 3 epochs",
        "validation: 8 of 8 clips",
        ", top-1 after one step: mv ",
        " GB at most",
        "nothing written",
    ):
        assert words in text


def test_a_dry_run_tells_of_the_run_that_is_there(demo: Path, tmp_path: Path) -> None:
    config = small_config(demo, tmp_path, train={"epochs": 1, "batch_size": 8})
    (tmp_path / "last.pt").touch()
    lines = dry_run({"mv": config})
    assert f"  {tmp_path}: already holds a run; --resume, --overwrite or another --output is needed" in lines
    assert "already holds a run" not in "\n".join(dry_run({"mv": config}, again=True))
    assert any("8 clips, 1 step an epoch, 1 epoch:" in line for line in lines)
