"""Frozen networks with a linear classifier: fitted at once on all clips, alike in training, testing and prediction."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from clip_stream import TINY_CLIP
from clips import record, sliding
from demo import BACKBONE, merge, same, weights_of
from test_distributed import torchrun
from tool import run_tool, tool
from torch import nn

from coviar_mocrop.checkpoint import digest, load_checkpoint
from coviar_mocrop.clips.cache import open_box_cache
from coviar_mocrop.clips.dataset import ClipDataset
from coviar_mocrop.clips.lists import Part, read_videos
from coviar_mocrop.clips.loading import open_clips
from coviar_mocrop.clips.stores import open_store
from coviar_mocrop.config import load_config, load_configs
from coviar_mocrop.datasets.lists import Clip, format_classes, format_groups, format_list
from coviar_mocrop.errors import NoMotionVectorsError
from coviar_mocrop.inference.import_weights import inspect_weights
from coviar_mocrop.inference.predictor import Predictor
from coviar_mocrop.inference.testing import load_stream, score_checkpoint
from coviar_mocrop.networks import frozen
from coviar_mocrop.networks.config import ModelConfig
from coviar_mocrop.networks.frozen import FrozenNet
from coviar_mocrop.networks.linear import DEFAULT_STRENGTH, cross_validate
from coviar_mocrop.networks.stream_net import create_network
from coviar_mocrop.scores import load_scores
from coviar_mocrop.streams.base import create_stream
from coviar_mocrop.training import fitting
from coviar_mocrop.training.fitting import FOLDS, fold_of
from coviar_mocrop.training.fitting import train_streams as train

pytestmark = pytest.mark.usefixtures("no_figures", "quick")
STREAMS = ("iframe", "mv", "residual")
CLASSES = ("left", "right")


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    """Two divisions and strengths, costs that are not counted: a run of three streams takes a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "DIVISIONS", 2)
        patch.setattr(frozen, "cross_validate", partial(cross_validate, strengths=(1.0, 0.1)))
        patch.setattr("coviar_mocrop.streams.frames.count_flops", lambda *_: 10**6)
        yield


def record_clips(videos: Path, count: int, first: int = 0, **how: Any) -> list[Clip]:
    """Clips of both classes, in turn: a picture that slides to the left or to the right."""
    clips = []
    for number in range(first, first + count):
        label = number % 2
        name = f"{CLASSES[label]}/{number:02}.mp4"
        (videos / name).parent.mkdir(parents=True, exist_ok=True)
        record(sliding(8, 64, 48, (4 * label - 2, 0), seed=number), videos / name, **{"gop": 4, **how})
        clips.append(Clip(name, CLASSES[label], label))
    return clips


def write_lists(folder: Path, groups: Mapping[str, str] | None = None, **lists: Sequence[Clip]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classes.txt").write_text(format_classes(CLASSES))
    for side, clips in lists.items():
        (folder / f"{side}.txt").write_text(format_list(clips))
    if groups is not None:
        (folder / "groups.txt").write_text(format_groups(groups))
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``videos`` and ``lists``: 8 clips to train on, 2 for validation, 4 to test on; a group is 2 clips."""
    folder = tmp_path_factory.mktemp("clips")
    found = record_clips(folder / "videos", 14)
    groups = {clip.path: f"camera {number // 2}" for number, clip in enumerate(found)}
    write_lists(folder / "lists", groups, train=found[:8], val=found[8:10], test=found[10:])
    return folder


def write_settings(path: Path, clips: Path, lists: Path | None = None, **changes: Any) -> Path:
    """A settings file of three streams; ``changes`` are merged a section deep."""
    lists = lists or clips / "lists"
    values: dict[str, Any] = {
        "setting": "attention",
        "data": {
            "root": str(clips / "videos"),
            **{f"{side}_list": str(lists / f"{side}.txt") for side in ("train", "val", "test")},
            "classes": str(lists / "classes.txt"),
            "cache": str(clips / "cache"),
            "workers": 0,
        },
        "input": {"full_size": 32, "reduced_size": 24, "segments": 1, "test_segments": 2},
        "model": {"backbone": BACKBONE, "freeze": True},
        "train": {"epochs": 3, "batch_size": 4, "precision": "fp32", "threads": 1},
        "streams": {name: {} for name in STREAMS},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(merge(values, changes)))
    return path


def fitted(folder: Path) -> dict[str, Any]:
    """What a run left that another one must leave as well."""
    files = [folder / "held_out.npz"] if (folder / "held_out.npz").exists() else []
    return {
        "model": weights_of(folder / "best.pt"),
        "last": weights_of(folder / "last.pt"),
        "held_out": [load_scores(file).scores.tobytes() for file in files],
    }


@pytest.fixture(scope="module")
def settings(clips: Path) -> Path:
    return write_settings(clips / "settings.yaml", clips)


@pytest.fixture(scope="module")
def together(settings: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of three frozen streams, and what train_stream.py said."""
    folder = tmp_path_factory.mktemp("together")
    done = run_tool("train_stream", "--config", settings, "--output", folder)
    return folder, done.stdout + done.stderr


@pytest.fixture
def run(together: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of the run."""
    return Path(shutil.copytree(together[0], tmp_path / "run"))


# -- the network ---------------------------------------------------------------------------------------------


def small_net(channels: int = 3, **model: Any) -> FrozenNet:
    torch.manual_seed(0)
    config = ModelConfig(**{"backbone": "resnet18", **model})
    return FrozenNet(create_network(channels, 2, config, input_norm=channels == 2, size=32), 2)


@pytest.mark.parametrize("temporal", ["none", "shift"])
def test_features_are_mean_and_spread_of_the_signed_roots(temporal: str) -> None:
    net = small_net(temporal=temporal)
    assert net.dim == 1024
    clips = torch.randn(2, 3, 4, 3, 32, 32)  # 2 clips, 3 views, 4 frames
    with torch.inference_mode():
        found = net.features(clips)
        rows = net.backbone.frame_logits(clips.flatten(0, 2), 4).unflatten(0, (2, 3, 4))
        rows = rows.sign() * rows.abs().sqrt()
        expected = torch.cat([rows.mean(dim=2), rows.std(dim=2, correction=0)], dim=2).mean(dim=1)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(net.features(clips[:, 0]), net.features(clips[:, :1]))
        assert torch.equal(net(found), net(clips))
        one = net.features(clips[:, :, :1])
    assert not one[:, 512:].any()  # one frame has no spread


def test_the_logits_of_a_clip_do_not_depend_on_the_batch_or_the_precision() -> None:
    net = small_net()
    nn.init.normal_(net.classifier.weight)
    rows = torch.randn(50, net.dim)
    with torch.inference_mode():
        whole = net(rows)
        assert all(torch.equal(net(row[None])[0], logits) for row, logits in zip(rows, whole, strict=True))
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(net(rows), whole)


def test_motion_gets_the_spread_of_pictures_unless_its_norm_was_trained() -> None:
    assert small_net(2).backbone.data_bn.weight.tolist() == pytest.approx([3 / (0.229 + 0.224 + 0.225)] * 2)
    assert isinstance(small_net().backbone.data_bn, nn.Identity)
    network = create_network(2, 2, ModelConfig(), input_norm=True)
    trained = torch.tensor([0.5, 0.7])
    network.data_bn.weight.data = trained.clone()  # as in files of PyTorch before 0.4.1, no batch is counted
    assert torch.equal(FrozenNet(network, 2).backbone.data_bn.weight, trained)


def test_nothing_of_the_backbone_is_trained() -> None:
    net = small_net(2)
    before = net.digest()
    net.train()
    assert not net.training and not net.backbone.data_bn.training
    assert {name for name, p in net.named_parameters() if p.requires_grad} == {"classifier.weight", "classifier.bias"}
    net.frames_at_once = 1  # tests set it: features, which are kept, must not depend on it
    with torch.inference_mode():
        net.features(torch.randn(1, 2, 2, 32, 32))
    assert net.digest() == before and net.backbone.frames_at_once is None


# -- the folds -----------------------------------------------------------------------------------------------


def test_whole_groups_stay_in_a_fold() -> None:
    clips = [Clip(f"{n}.mp4", CLASSES[n % 2], n % 2) for n in range(40)]
    group_of = {f"{n}.mp4": f"group {n // 4}" for n in range(36)}  # the last four are groups of their own
    divisions = fold_of(clips, group_of, 0)
    assert divisions is not None and divisions.shape == (fitting.DIVISIONS, 40)
    assert len({tuple(folds.tolist()) for folds in divisions}) == fitting.DIVISIONS
    for folds in divisions:
        assert set(folds.tolist()) == set(range(FOLDS))
        for start in range(0, 36, 4):
            assert len(set(folds[start : start + 4].tolist())) == 1
        sizes = torch.bincount(folds).tolist()
        assert max(sizes) - min(sizes) <= 4
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0)).tolist()
    moved = fold_of([clips[n] for n in order], group_of, 0)
    assert moved is not None and torch.equal(moved, divisions[:, order])
    other = fold_of(clips, group_of, 1)
    assert other is not None and not (other[:, None] == divisions).all(dim=2).any()  # no division of another seed's
    assert fold_of(clips, {clip.path: "one" for clip in clips}, 0) is None
    few = fold_of(clips, {clip.path: str(n % 3) for n, clip in enumerate(clips)}, 0)
    assert few is not None and len(few.unique()) == 3


# -- training ------------------------------------------------------------------------------------------------


def test_the_run_of_frozen_streams(together: tuple[Path, str], clips: Path) -> None:
    folder, said = together
    for name in STREAMS:
        content = load_checkpoint(folder / name / "best.pt")
        assert content["config"]["model"]["freeze"] is True and content["epoch"] == 1
        assert content["history"][0]["val_top1"] == load_scores(folder / name / "held_out.npz").top1
        held_out = load_scores(folder / name / "held_out.npz")
        assert held_out.settings["weights"] == digest(content["model"])
        lists = [(clips / f"lists/{side}.txt").read_text().splitlines() for side in ("train", "val")]
        assert held_out.names.tolist() == [line.split()[0] for line in [*lists[0], *lists[1]]]
        assert re.search(rf"{name}: top-1 [01]\.\d+ on the clips it was fitted on, [01]\.\d+ when they were", said)
    assert f"wrote {folder}/fusion.json, which coviar predict uses" in said
    (entry,) = json.loads((folder / "fusion.json").read_text())["settings"].values()
    assert entry["clips"] == 10


def test_together_or_alone_with_any_workers_and_cache_gives_the_same_bits(
    together: tuple[Path, str], settings: Path, tmp_path: Path
) -> None:
    for number, (name, workers) in enumerate(zip(STREAMS, (0, 1, 4), strict=True)):
        cache = [f"data.cache={tmp_path / 'cold'}"] if number else []  # the first finds all features
        options = ["--set", f"data.workers={workers}", *cache]
        tool("train_stream", "--config", settings, "--streams", name, "--output", tmp_path / name, *options)
        assert same(fitted(tmp_path / name), fitted(together[0] / name)), name


def test_what_is_in_the_cache_is_not_read_again(
    together: tuple[Path, str], settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even to take the time; and the boxes of both lists are there, too."""
    monkeypatch.setattr(ClipDataset, "read", lambda *_: pytest.fail("a clip is read"))
    tool("train_stream", "--config", settings, "--streams", "mv", "--output", tmp_path)
    config = load_config(settings, stream="mv")
    boxes = open_box_cache(config.data, config.mocrop, open_store(config.data))
    sides: tuple[Part, ...] = ("train", "val")
    names = [clip.path for side in sides for clip in read_videos(config.data, side).clips]
    assert len(names) == 10
    assert all(boxes.get(name) is not None for name in names)


def test_held_out_clips_are_those_of_a_fit_without_their_fold(together: tuple[Path, str], settings: Path) -> None:
    stream = load_stream(together[0] / "mv/best.pt")
    data = stream.config.data
    lists = [read_videos(data, "train"), read_videos(data, "val")]
    rows = torch.cat([open_clips([stream], videos)[0].features["mv"].rows for videos in lists])
    found = [clip for videos in lists for clip in videos.clips]
    labels = torch.tensor([clip.label for clip in found])
    folds = fold_of(found, lists[0].group_of, 0)
    assert folds is not None
    _, expected = cross_validate(rows, labels, folds, 2, (1.0, 0.1))
    held_out = load_scores(together[0] / "mv/held_out.npz").scores
    np.testing.assert_allclose(held_out, expected.numpy(), rtol=1e-5, atol=1e-5)


def test_a_score_is_what_is_predicted(together: tuple[Path, str], clips: Path, tmp_path: Path) -> None:
    folder = together[0]
    tool("fuse", "--checkpoints", folder, "--output", tmp_path / "fused")
    predictor = Predictor([folder])
    for name in STREAMS:
        tool("test_stream", "--checkpoint", folder / name / "best.pt", "--scores", tmp_path / "alone.npz")
        alone, fused = (load_scores(tmp_path / p) for p in ("alone.npz", f"fused/scores/{name}_attention.npz"))
        assert np.array_equal(alone.scores, fused.scores) and len(alone.names) == 4
        for clip, row in zip(alone.names.tolist(), alone.scores, strict=True):
            assert np.array_equal(predictor(clips / "videos" / clip).scores[name], row)


def test_in_half_precision_too_a_score_is_what_is_predicted(run: Path, clips: Path) -> None:
    half = ["train.precision=bf16"]
    scores = score_checkpoint(run / "mv/best.pt", half)
    predictor = Predictor([run / "mv/best.pt"], half)
    for clip, row in zip(scores.names.tolist(), scores.scores, strict=True):
        assert np.array_equal(predictor(clips / "videos" / clip).scores["mv"], row)


def test_the_backbone_is_that_of_the_seed_and_the_classifier_learns(together: tuple[Path, str], settings: Path) -> None:
    for name, config in load_configs(settings).items():
        torch.manual_seed(config.seed)
        before = create_stream(config, CLASSES, weights=True).network.state_dict()
        after = weights_of(together[0] / name / "best.pt")
        changed = {key for key in before if not torch.equal(before[key], after[key])}
        assert changed == {"classifier.weight", "classifier.bias", "feature_mean", "feature_deviation"}


def test_a_finished_run_is_left_as_it_is_or_replaced(
    run: Path, settings: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    command = ["train_stream", "--config", settings, "--output", run]
    assert "already holds a run" in tool(*command, ok=False)
    before = {name: (run / name / "best.pt").read_bytes() for name in STREAMS}
    tool(*command, "--resume")
    assert caplog.text.count("is finished already (1 epoch)") == 3
    assert before == {name: (run / name / "best.pt").read_bytes() for name in STREAMS}
    facts = fitted(run / "mv")
    (run / "mv/held_out.npz").write_bytes(b"stale")
    (run / "mv/last.pt").unlink()  # killed before it was written
    tool(*command, "--streams", "mv", "--resume", "--output", run / "mv")
    assert same(fitted(run / "mv"), facts)
    tool(*command, "--overwrite")
    assert same(fitted(run / "mv"), facts)


def test_a_list_of_one_group_has_no_folds(
    run: Path, clips: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    lines = [line.split() for line in (clips / "lists/train.txt").read_text().splitlines()]
    found = [Clip(path, name, int(label)) for path, name, label in lines]
    lists = write_lists(tmp_path / "lists", {clip.path: "one" for clip in found}, train=found)
    config = write_settings(tmp_path / "c.yaml", clips, lists, data={"val_list": None, "test_list": None})
    said = tool("train_stream", "--config", config, "--output", run, "--overwrite")
    assert "epoch" not in said and "held out" not in said
    assert caplog.text.count(f"regularisation {DEFAULT_STRENGTH:g} (the default)") == 3
    assert not list(run.rglob("held_out.npz"))
    assert "val_top1" not in (run / "mv/metrics.jsonl").read_text()


def test_a_class_with_one_clip(clips: Path, tmp_path: Path) -> None:
    lines = (clips / "lists/train.txt").read_text().splitlines()
    lists = write_lists(tmp_path / "lists")
    (lists / "train.txt").write_text("\n".join([*lines[::2], lines[1]]))
    config = write_settings(tmp_path / "c.yaml", clips, lists, data={"val_list": None})
    (best,) = train({"mv": load_configs(config, ["mv"], output=str(tmp_path / "mv"))["mv"]}).values()
    assert load_scores(best.parent / "held_out.npz").scores.shape == (5, 2)


def test_a_validation_list_that_is_the_test_list_is_refused(clips: Path, tmp_path: Path) -> None:
    config = write_settings(tmp_path / "c.yaml", clips, data={"val_list": str(clips / "lists/test.txt")})
    command = ["train_stream", "--config", config, "--output", tmp_path / "run"]
    assert "data.val_list is the test list" in tool(*command, ok=False)


def test_a_network_that_is_trained_and_one_that_is_frozen(
    together: tuple[Path, str], clips: Path, tmp_path: Path
) -> None:
    streams = {"mv": {"train": {"val_every": 0}}, "residual": {"model": {"freeze": False}, "train": {"epochs": 2}}}
    config = write_settings(tmp_path / "c.yaml", clips, streams=streams)
    tool("train_stream", "--config", config, "--output", tmp_path / "both")
    assert same(fitted(tmp_path / "both/mv"), fitted(together[0] / "mv"))
    assert load_checkpoint(tmp_path / "both/residual/last.pt")["epoch"] == 2
    tool("train_stream", "--config", config, "--streams", "residual", "--output", tmp_path / "alone")
    assert same(weights_of(tmp_path / "alone/best.pt"), weights_of(tmp_path / "both/residual/best.pt"))
    said = tool("fuse", "--checkpoints", tmp_path / "both", "--output", tmp_path / "fused", "--tune")
    assert "held out, 2 clips" in said  # those of the validation list, which the trained one did not learn from
    video = next((clips / "videos").rglob("*.mp4"))
    scores = Predictor([tmp_path / "both"])(video).scores
    (entry,) = json.loads((tmp_path / "both/fusion.json").read_text())["settings"].values()
    expected = sum(entry["weights"][name] * scores[name] for name in STREAMS) / entry["temperature"]
    np.testing.assert_allclose(scores["fused"], expected, rtol=1e-4)


def weights_file(path: Path) -> Path:
    torch.manual_seed(7)
    torch.save(create_network(3, 1000, ModelConfig(backbone=BACKBONE)).backbone.state_dict(), path)
    return path


def test_few_clips_freeze_and_many_are_trained(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = {"freeze": "few", "weights": str(weights_file(tmp_path / "w.pth"))}
    config = write_settings(tmp_path / "c.yaml", clips, model=model)
    command = ["train_stream", "--config", config, "--streams", "mv", "--set", "train.epochs=2", "--output"]
    tool(*command, tmp_path / "few")
    content = load_checkpoint(tmp_path / "few/best.pt")
    assert (content["config"]["model"]["freeze"], content["epoch"]) == (True, 1)
    monkeypatch.setattr(fitting, "FEW_CLIPS", 1)
    tool(*command, tmp_path / "many")
    content = load_checkpoint(tmp_path / "many/best.pt")
    assert content["config"]["model"]["freeze"] is False
    assert load_checkpoint(tmp_path / "many/last.pt")["epoch"] == 2
    assert not (tmp_path / "many/held_out.npz").exists()
    for run in ("few", "many"):  # the settings do not say which it was
        scores = score_checkpoint(tmp_path / run / "best.pt", config_file=config)
        assert np.array_equal(scores.scores, score_checkpoint(tmp_path / run / "best.pt").scores)


def test_a_dry_run_tells_of_features(clips: Path, settings: Path, tmp_path: Path) -> None:
    said = tool("train_stream", "--config", settings, "--output", tmp_path / "run", "--dry-run")
    assert "features 8 x" in said and "clips; computing the features" in said and "step" not in said
    mixed = ["--set", "streams.mv.model.freeze=false", "--dry-run"]
    said = tool("train_stream", "--config", settings, "--output", tmp_path / "run", *mixed)
    assert "features 8 x" in said and "8 clips, 2 steps an epoch," in said and said.count("nothing written") == 1
    assert not (tmp_path / "run").exists()


def test_processes_join_once_for_all_streams(settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second group of the same processes may meet the closed connections of the first."""
    events: list[str] = []

    @contextmanager
    def joined() -> Iterator[None]:
        events.append("join")
        yield
        events.append("leave")

    def done(name: str) -> Callable[..., dict[str, Path]]:
        return lambda configs, **options: events.append(name) or dict.fromkeys(configs, tmp_path)  # type: ignore[func-returns-value]

    for name in ("fit", "train"):
        monkeypatch.setattr(fitting, name, done(name))
    monkeypatch.setattr(fitting, "process_group", joined)
    fitting.train_streams(load_configs(settings, overrides=["streams.mv.model.freeze=false"], output=str(tmp_path)))
    assert events == ["join", "fit", "train", "leave"]


@pytest.mark.slow
def test_two_processes_fit_what_one_does(together: tuple[Path, str], settings: Path, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import sys\n"
        "from functools import partial\n"
        "from coviar_mocrop.config import load_configs\n"
        "from coviar_mocrop.networks import frozen\n"
        "from coviar_mocrop.training import fitting\n"
        "from coviar_mocrop.training.fitting import train_streams as train\n"
        "fitting.DIVISIONS = 2\n"
        "frozen.cross_validate = partial(frozen.cross_validate, strengths=(1.0, 0.1))\n"
        "train(load_configs(sys.argv[1], overrides=[f'data.cache={sys.argv[2]}/cache'], output=sys.argv[2]))\n"
    )
    done = torchrun(2, script, settings, tmp_path)
    assert done.returncode == 0, done.stderr
    for name in STREAMS:
        assert same(fitted(tmp_path / name), fitted(together[0] / name)), name
        line = json.loads((tmp_path / name / "metrics.jsonl").read_text())
        alone = json.loads((together[0] / name / "metrics.jsonl").read_text())
        assert all(line[key] == pytest.approx(alone[key]) for key in ("loss", "top1", "val_top1", "val_loss"))


# -- testing -------------------------------------------------------------------------------------------------


def test_held_out_scores_are_of_the_settings_they_were_fitted_in(run: Path, tmp_path: Path) -> None:
    command = ["fuse", "--checkpoints", run, "--output", tmp_path / "out", "--set"]
    said = tool(*command, "setting=baseline").splitlines()
    (line,) = (line for line in said if line.startswith("weights: the default ones, because"))
    assert "held_out.npz: is of the setting attention, in which the iframe stream was fitted" in line
    for change in ("input.test_segments=3", "data.anchor_every=6", "mocrop.area_ratio=0.5", "input.test_crops=10"):
        said = tool(*command, change, "--tune", ok=False).splitlines()
        part = "crop" if "crop" in change.lower() else "sampling"
        assert f"was fitted with other settings than it is tested with ({part})" in said[0]
    tool(*command, "train.precision=fp32", "data.workers=1", "--tune")


def test_accuracies_on_clips_that_were_fitted_to_are_marked(
    run: Path, clips: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    same = f"data.test_list={clips}/lists/train.txt"
    for arguments in (
        ("fuse", "--checkpoints", run, "--output", tmp_path / "out"),
        ("test_stream", "--checkpoint", run / "mv/best.pt", "--scores", tmp_path / "mv.npz"),
    ):
        caplog.clear()
        tool(*arguments)
        assert "the classifier was fitted on" not in caplog.text
        tool(*arguments, "--set", same)
        assert re.search(r"mv/best\.pt: the classifier was fitted on (\d+) of the \1 clips reported here", caplog.text)


def test_weights_of_probabilities_are_not_stored(run: Path, tmp_path: Path) -> None:
    (run / "fusion.json").unlink(missing_ok=True)
    said = tool("fuse", "--checkpoints", run, "--scale", "softmax", "--output", tmp_path / "out")
    assert "the weights are not stored, because coviar predict fuses logits" in said
    assert not (run / "fusion.json").exists()


def test_held_out_scores_of_other_weights_are_refused(run: Path, settings: Path, tmp_path: Path) -> None:
    tool("fuse", "--checkpoints", run, "--output", tmp_path / "out", "--tune")
    shutil.copy(run / "iframe/held_out.npz", run / "mv/held_out.npz")
    command = ["fuse", "--checkpoints", run, "--output", tmp_path / "out"]
    assert "belongs to other weights" in tool(*command)
    (run / "mv/held_out.npz").unlink()
    assert "no such file" in tool(*command, "--tune", ok=False)


def export(run: Path, output: Path, *formats: str) -> dict[str, Any]:
    tool("export", "--checkpoints", run / "mv/best.pt", "--output", output, "--format", *formats)
    entry = json.loads((output / "card.json").read_text())["streams"]["mv"]
    assert entry["output"]["what"] == "logits, of the mean and the spread over segments and windows"
    files: dict[str, Any] = entry["files"]
    return files


def test_an_export_predicts_what_the_checkpoint_does(run: Path, clips: Path, tmp_path: Path) -> None:
    export(run, tmp_path, "safetensors")
    video = next((clips / "videos").rglob("*.mp4"))
    exported, trained = (Predictor([path])(video) for path in (tmp_path, run / "mv/best.pt"))
    assert np.array_equal(exported.scores["mv"], trained.scores["mv"])


@pytest.mark.slow
def test_programs_are_the_stream_for_any_number_of_clips_and_segments(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    files = export(run, tmp_path, "torch_export", "onnx")
    assert files.keys() == {"torch_export", "onnx"}
    for file in files.values():
        assert file["input"] == ["clips", 1, "segments", 2, 32, 32]
        assert file["relative_difference"] < 1e-3


@pytest.mark.slow
def test_int8_of_a_fitted_network_says_that_its_clips_were_fitted_to(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    said = tool("export", "--checkpoints", run / "mv/best.pt", "--output", tmp_path, "--format", "int8")
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["accuracy"]["fitted"] == ["mv"]
    assert "\nmv: fitted to these clips, so other clips may give other accuracies\n" in said
    assert ("--transcode" in said) == (card["videos"] is not None)


# -- clips that cannot be used --------------------------------------------------------------------------------


@pytest.fixture
def spoilt(clips: Path, tmp_path: Path) -> Callable[..., Path]:
    """Makes settings with a training list that names a further clip: one of other bytes, or of another codec."""

    def make(codec: str | None, **changes: Any) -> Path:
        shutil.copytree(clips / "videos", tmp_path / "spoilt/videos")
        (extra,) = record_clips(tmp_path / "spoilt/videos", 1, 20, **({"codec": codec} if codec else {}))
        if codec is None:
            (tmp_path / "spoilt/videos" / extra.path).write_bytes(b"no video")
        lists = Path(shutil.copytree(clips / "lists", tmp_path / "spoilt/lists"))
        with open(lists / "train.txt", "a") as text:
            text.write(format_list([extra]))
        return write_settings(tmp_path / "spoilt/c.yaml", tmp_path / "spoilt", **changes)

    return make


def test_a_clip_that_cannot_be_read_is_left_out(spoilt: Any, together: tuple[Path, str], tmp_path: Path) -> None:
    config = spoilt(None)
    command = ["train_stream", "--config", config, "--output", tmp_path / "run"]
    assert "left/20.mp4" in tool(*command, ok=False)
    tool(*command, "--overwrite", "--set", "data.on_error=skip")
    for name in STREAMS:
        names = load_scores(tmp_path / "run" / name / "held_out.npz").names.tolist()
        assert len(names) == 10 and "left/20.mp4" not in names
    lists = tmp_path / "spoilt/lists"
    (lists / "train.txt").write_text(format_list([Clip("left/20.mp4", "left", 0)]))
    more = ["--set", "data.on_error=skip", "data.val_list=null"]
    assert "none of the clips" in tool(*command, "--overwrite", *more, ok=False)
    with open(lists / "train.txt", "a") as text:  # two groups, of which one cannot be read: no folds are left
        text.write(format_list([Clip("left/00.mp4", "left", 0)]))
    tool(*command, "--overwrite", *more)
    assert not list((tmp_path / "run").rglob("held_out.npz"))


@pytest.mark.slow
def test_a_clip_without_vectors_is_there_for_the_pictures(spoilt: Any, tmp_path: Path) -> None:
    """The same whether the streams are trained together or alone, and whatever the cache holds."""
    config = spoilt("libx265", setting="baseline")
    options = ["--set", "data.on_error=skip"]
    alone = tmp_path / "alone"
    for name in STREAMS:
        tool("train_stream", "--config", config, "--streams", name, "--output", alone / name, *options)
    cold = ["--set", f"data.cache={tmp_path / 'cold'}"]
    for output, more in (("warm", []), ("cold", cold), ("again", cold)):
        tool("train_stream", "--config", config, "--output", tmp_path / output, *options, *more)
        for name in STREAMS:
            assert same(fitted(tmp_path / output / name), fitted(alone / name)), (output, name)
    seen = {name: load_scores(alone / name / "held_out.npz").names.tolist() for name in STREAMS}
    assert {name: "left/20.mp4" in names for name, names in seen.items()} == {
        "iframe": True,
        "mv": False,
        "residual": False,
    }
    tool("fuse", "--checkpoints", tmp_path / "warm", "--output", tmp_path / "fused", "--tune")
    with pytest.raises(NoMotionVectorsError, match=r"20\.mp4"):
        train(load_configs(config, ["iframe", "mv"], output=str(tmp_path / "raised")))


# -- other streams and settings --------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_clip_stream_needs_a_motion_network_that_was_trained(
    together: tuple[Path, str], clips: Path, tmp_path: Path
) -> None:
    pytest.importorskip("open_clip")
    clip = {"model": TINY_CLIP, "pretrained": None, "motion": str(together[0] / "mv/best.pt")}
    config = write_settings(tmp_path / "c.yaml", clips, clip=clip, streams={"mv": {}, "clip": {}})
    command = ["train_stream", "--config", config, "--output", tmp_path / "run", "--streams"]
    assert "is frozen but for a linear classifier" in tool(*command, "clip", ok=False)
    tool(*command, "mv", "--set", "model.freeze=false", "train.epochs=1", "--output", tmp_path / "mv")
    tool(*command, "clip", "mv", "--set", f"clip.motion={tmp_path / 'mv/best.pt'}")  # frozen: its networks always are
    assert load_checkpoint(tmp_path / "run/clip/last.pt")["epoch"] == 3
    tool("fuse", "--checkpoints", tmp_path / "run", "--output", tmp_path / "fused")


@pytest.mark.slow
def test_motion_squeeze_cannot_be_frozen_and_temporal_shift_can(clips: Path, settings: Path, tmp_path: Path) -> None:
    command = ["train_stream", "--config", settings, "--streams", "iframe", "--output", tmp_path / "run", "--set"]
    net = ["model.backbone=resnet18", "input.segments=2"]
    said = tool(*command, *net, "model.motion_squeeze=true", ok=False)
    assert "model.freeze: nothing would train MotionSqueeze" in said
    found = {}
    for temporal in ("none", "shift"):  # of the same weights: features must not be taken for those of the other
        tool(*command, *net, f"model.temporal={temporal}", "--overwrite")
        found[temporal] = load_scores(tmp_path / "run/held_out.npz").scores
        tool("test_stream", "--checkpoint", tmp_path / "run/best.pt", "--scores", tmp_path / "s.npz")
    assert not np.array_equal(found["none"], found["shift"])


def test_a_frozen_run_is_no_file_of_initial_weights(together: tuple[Path, str], settings: Path, tmp_path: Path) -> None:
    command = ["train_stream", "--config", settings, "--streams", "mv", "--output", tmp_path / "run"]
    said = tool(*command, "--set", f"model.weights={together[0] / 'mv/best.pt'}", ok=False)
    assert "best.pt" in said


def test_weights_are_imported_into_a_whole_network(settings: Path, tmp_path: Path) -> None:
    config = load_configs(settings)["mv"]
    network = create_network(2, 2, ModelConfig(backbone=BACKBONE), input_norm=True)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    found = inspect_weights(tmp_path / "w.pth", config)
    assert not found.problem and found.config.model.freeze is False
    found.save(tmp_path / "best.pt")
    assert same(load_stream(tmp_path / "best.pt").network.state_dict(), network.state_dict())


def test_groups_beside_the_lists_are_checked(clips: Path, tmp_path: Path) -> None:
    lists = Path(shutil.copytree(clips / "lists", tmp_path / "lists"))
    (lists / "groups.txt").write_text("left/00.mp4\tcamera 1\nright/01.mp4 camera 2\n")
    config = write_settings(tmp_path / "c.yaml", clips, lists)
    said = tool("train_stream", "--config", config, "--output", tmp_path / "run", ok=False)
    assert said.startswith(f"error: {lists}/groups.txt, line 2: expected 'path<tab>group'")
