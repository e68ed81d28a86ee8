"""The CLIP streams from features to scores: features computed once, frozen networks, the trained head, zero-shot."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_stream import TINY_CLIP, clip_config, clip_settings, motion_config, open_clip_stream
from demo import FEATURES, open_list, outcome, same, weights_of
from tool import tool

from coviar_mocrop.bitstream import open_video
from coviar_mocrop.checkpoint import load_checkpoint, save_checkpoint
from coviar_mocrop.clips.batch import Features
from coviar_mocrop.clips.dataset import ClipDataset
from coviar_mocrop.clips.reader import read_views
from coviar_mocrop.config import load_config
from coviar_mocrop.datasets.lists import read_classes
from coviar_mocrop.errors import CheckpointError, ConfigError, DataError, ModelError, VideoError
from coviar_mocrop.flops import count_flops
from coviar_mocrop.fusion import fuse
from coviar_mocrop.inference.export import export_run
from coviar_mocrop.inference.predictor import Predictor
from coviar_mocrop.inference.testing import load_stream, load_untrained, score_checkpoint, score_streams
from coviar_mocrop.networks.clip import picture_tower
from coviar_mocrop.networks.fusion_head import CLIPFusionHead
from coviar_mocrop.networks.prompts import TEMPLATES
from coviar_mocrop.networks.stream_net import create_network
from coviar_mocrop.runtime import Group
from coviar_mocrop.scores import load_scores
from coviar_mocrop.streams.clip import CLIPStream
from coviar_mocrop.streams.mv import MotionStream
from coviar_mocrop.training.config import TrainConfig
from coviar_mocrop.training.optim import create_optimizer
from coviar_mocrop.training.trainer import train

open_clip = pytest.importorskip("open_clip")


@pytest.fixture(scope="module")
def motion(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train({"mv": motion_config(demo, tmp_path_factory.mktemp("motion"))})["mv"]


@pytest.fixture(scope="module")
def trained(demo: Path, motion: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train({"clip": clip_config(demo, tmp_path_factory.mktemp("clip"), motion)})["clip"]


def features_of(config: Any, part: Any = "train") -> Features:
    return open_clip_stream(config, part)[1].features[config.stream]


def rows_of(cache: Path) -> dict[tuple[str, str], bytes]:
    """All features of a cache, by network and clip."""
    found = {}
    for path in sorted((cache / "features").rglob("*.npz")):
        with np.load(path) as file:
            for name, row in zip(file["names"].tolist(), file["rows"], strict=True):
                assert (path.parent.name, name) not in found  # computed once
                found[path.parent.name, name] = row.tobytes()
    return found


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, tuple[str, ...]]]]:
    """What is read of clips while the test runs: their numbers, and the names of the views."""
    found: list[tuple[int, tuple[str, ...]]] = []
    plain = ClipDataset.read

    def counting(self: ClipDataset, index: int, *more: Any, **options: Any) -> Any:
        views = plain(self, index, *more, **options)
        found.append((index, tuple(next(iter(views.values())).pixels)))
        return views

    monkeypatch.setattr(ClipDataset, "read", counting)
    yield found


# -- features ------------------------------------------------------------------------------------------------


def test_features_are_the_same_bits_whatever_the_workers(demo: Path, motion: Path, tmp_path: Path) -> None:
    tables, caches = [], []
    for workers in (0, 3):
        data = {"cache": str(tmp_path / str(workers)), "workers": workers}
        features = features_of(clip_config(demo, tmp_path, motion, setting="attention", data=data))
        assert features.rows.shape == (8, 24 + FEATURES) and features.computed == 8 and not features.errors
        tables.append(features.rows)
        caches.append(rows_of(tmp_path / str(workers)))
    assert torch.equal(*tables)
    assert caches[0] == caches[1] and len(caches[0]) == 16


def test_features_are_those_of_the_networks_on_what_they_see(demo: Path, motion: Path, tmp_path: Path) -> None:
    config = clip_config(demo, tmp_path, motion, data={"cache": str(tmp_path / "c")})
    stream, clips = open_clip_stream(config)
    path = demo / "videos" / clips.videos.clips[3].path
    with open_video(path) as video:
        num_frames, gops = video.info.num_frames, video.gops
        seen = read_views(video, MotionStream(config, "abc", weights=False).views(num_frames, gops))
        picture = next(iter(video.visit(pictures=[video.gop_at(num_frames // 2).start]))).picture()
    network = create_network(2, 8, config.model, input_norm=True).eval()
    network.load_state_dict(load_checkpoint(motion)["model"])
    inside: list[torch.Tensor] = []
    network.get_submodule(network.classifier_name).register_forward_pre_hook(lambda _, given: inside.append(given[0]))
    square = open_clip.image_transform((32, 32), is_train=False)
    height, width = picture.shape[:2]
    side, left = min(height, width), (width - height) // 2
    from PIL import Image

    with torch.no_grad():
        network(torch.from_numpy(seen.pixels["frames"]).float()[None] / 255 - 0.5)
        image = stream.encoder(square(Image.fromarray(picture[:side, left : left + side]))[None])
    row = clips.features["clip"].rows[3]
    torch.testing.assert_close(row[24:], inside[0].mean(dim=0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(row[:24], image[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "model", [{"temporal": "shift"}, pytest.param({"motion_squeeze": True}, marks=pytest.mark.slow)]
)
def test_a_motion_network_over_time_gets_whole_clips(demo: Path, tmp_path: Path, model: dict[str, Any]) -> None:
    model = {"backbone": "resnet18", **model}
    trained = motion_config(demo, tmp_path / "mv", model=model, input={"segments": 3})
    torch.manual_seed(3)
    network = create_network(2, 4, trained.model, input_norm=True).eval()
    content = {"model": network.state_dict(), "config": trained.model_dump(mode="json"), "classes": list("abcd")}
    save_checkpoint(tmp_path / "mv.pt", content)
    data = {"cache": str(tmp_path / "cache")}
    changes: dict[str, Any] = {"clip": {"parts": "motion"}, "data": data, "input": {"segments": 3}}
    config = clip_config(demo, tmp_path, tmp_path / "mv.pt", model=model, **changes)
    stream, clips = open_clip_stream(config, "test")
    assert stream.motion is not None
    read = clips.read(2, [stream.motion])["mv"]
    assert read.pixels["frames"].shape == (1, 3, 2, 48, 48)
    features = clips.features["clip"].rows[2]
    with torch.no_grad():
        expected = network(stream.motion.encode(read))[0]
        classifier = network.get_submodule(network.classifier_name)
        torch.testing.assert_close(classifier(features), expected, atol=1e-4, rtol=1e-4)
    assert stream.cost().frames_per_clip == 3
    for wrong in ({"temporal": "none", "motion_squeeze": False}, {"temporal": "shift", "motion_squeeze": True}):
        with pytest.raises(CheckpointError, match=r"but model\.(temporal|motion_squeeze) is .*; they must agree"):
            open_clip_stream(clip_config(demo, tmp_path, tmp_path / "mv.pt", model={**model, **wrong}, **changes))


def test_features_of_a_motion_network_over_time_are_kept_apart(demo: Path, tmp_path: Path) -> None:
    """Temporal shift has no weights, so their fingerprint does not tell."""
    made_by = []
    for temporal in ("none", "shift"):
        model = {"backbone": "resnet18", "temporal": temporal}
        config = clip_config(demo, tmp_path, None, model=model, clip={"parts": "motion"}, input={"segments": 3})
        torch.manual_seed(0)
        made_by.append(CLIPStream(config, list("abcd"), weights=False).made_by("motion"))
    assert made_by[0]["network"] == made_by[1]["network"]
    assert made_by[0] != made_by[1]


def test_features_of_other_frames_are_kept_apart(demo: Path, tmp_path: Path) -> None:
    made_by = []
    for stride in (None, 2):
        config = clip_config(demo, tmp_path, None, clip={"parts": "motion"}, input={"segments": 3, "stride": stride})
        torch.manual_seed(0)
        made_by.append(CLIPStream(config, list("abcd"), weights=False).made_by("motion"))
    assert made_by[0]["network"] == made_by[1]["network"]
    assert made_by[0] != made_by[1]


def test_the_time_of_a_clip_is_the_mean_cached_or_not(
    demo: Path, motion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of features as of frames, and of reading as of the networks."""
    config = clip_config(demo, tmp_path, motion, data={"cache": str(tmp_path / "cache")})
    stream, plain, slow = CLIPStream(config, read_classes(config.data.classes), weights=True), ClipDataset.read, 1

    def read(self: ClipDataset, index: int, *arguments: Any) -> Any:
        time.sleep(0.4 if index == slow else 0)
        return plain(self, index, *arguments)

    monkeypatch.setattr(ClipDataset, "read", read)
    for _ in range(2):
        facts = score_streams([stream])["clip"].settings
        assert facts["ms_read"] > 100  # one of the four clips that are timed takes 400
        assert facts["ms_network"] > 1


def test_more_frames_are_averaged_and_the_box_matters(demo: Path, motion: Path, tmp_path: Path) -> None:
    def image(**changes: Any) -> torch.Tensor:
        clip = {"parts": "image", **changes.pop("clip", {})}
        return features_of(clip_config(demo, tmp_path, None, clip=clip, **changes)).rows

    one, three, single = image(), image(clip={"frames": 3}), image(clip={"frames": 1})
    assert torch.equal(one, single)
    assert not torch.allclose(one, three)
    boxed, unboxed = image(setting="attention"), image(setting="attention", clip={"crop": False})
    assert not torch.allclose(boxed, one)
    assert torch.equal(unboxed, one)


@pytest.mark.slow
def test_only_what_is_missing_or_stale_is_computed(demo: Path, motion: Path, tmp_path: Path, read: Any) -> None:
    videos = tmp_path / "videos"
    shutil.copytree(demo / "videos", videos)

    def features(**changes: Any) -> Features:
        data = {"root": str(videos), "cache": str(tmp_path / "cache")}
        read.clear()
        return features_of(clip_config(demo, tmp_path, motion, **{"data": data, **changes}))

    first, both = features(), ("image", "motion")
    assert sorted(read) == [(number, both) for number in range(8)]  # both from one pass over the file
    assert torch.equal(features().rows, first.rows) and read == []

    paths = [clip.path for clip in open_clip_stream(clip_config(demo, tmp_path, motion))[1].videos.clips]
    shutil.copyfile(videos / paths[3], videos / paths[2])  # another clip under the old name
    changed = features()
    assert read == [(2, both)] and changed.computed == 1
    assert torch.equal(changed.rows[2], first.rows[3])

    boxed = {"setting": "attention"}
    for change, views in (
        ({"seed": 1}, ("image",)),  # another CLIP: its random weights follow from the seed
        ({"clip": {"frames": 2}}, ("image",)),
        ({"input": {"test_segments": 2}}, ("motion",)),
        ({"input": {"full_size": 40}}, ("motion",)),
        ({"data": {"root": str(videos), "cache": str(tmp_path / "cache"), "anchor_every": 6}}, both),
        (boxed, both),
        ({**boxed, "mocrop": {"area_ratio": 0.5}}, both),
        (boxed, None),
        ({**boxed, "clip": {"crop": False}}, None),  # CLIP sees the frame as it did first, motion the box
        ({"clip": {"parts": "motion"}}, None),
    ):
        features(**change)
        assert read == ([] if views is None else [(number, views) for number in range(8)]), change

    for broken in (tmp_path / "cache").rglob("*.npz"):
        broken.write_bytes(broken.read_bytes()[:100])
    assert torch.equal(features().rows, changed.rows)
    assert len(read) == 8


def test_a_clip_without_features_is_an_error_or_left_out_never_zeros(demo: Path, motion: Path, tmp_path: Path) -> None:
    lines = (demo / "lists/train_split1.txt").read_text().splitlines()
    gone = lines[3].replace(".mp4", "_gone.mp4")
    (tmp_path / "l.txt").write_text("\n".join([*lines[:3], gone, lines[4], f"a{gone}"]))
    data = {"train_list": str(tmp_path / "l.txt")}
    with pytest.raises((DataError, VideoError), match=r"_gone\.mp4: no such file"):
        open_clip_stream(clip_config(demo, tmp_path, motion, data=data))
    skipping = clip_config(demo, tmp_path, motion, data={**data, "on_error": "skip"}, train={"epochs": 1})
    features = features_of(skipping)
    assert features.errors.keys() == {3, 5}
    assert features.rows.isnan().all(dim=1).tolist() == [False, False, False, True, False, True]
    assert not any(torch.isnan(value).any() for value in weights_of(train({"clip": skipping})["clip"]).values())


@pytest.mark.slow
def test_shares_and_an_interrupted_run_give_the_same_features(
    demo: Path, motion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def config(name: str, **data: Any) -> Path:
        values = clip_settings(demo, tmp_path, motion, data={"cache": str(tmp_path / name), **data})
        (tmp_path / f"{name}.yaml").write_text(json.dumps(values))
        return tmp_path / f"{name}.yaml"

    told = tool("extract_features", "--config", config("whole"))
    assert told.count("8 clips with features, 8 of them computed now") == 2
    expected = rows_of(tmp_path / "whole")
    assert len(expected) == 32  # 16 clips, two networks
    for rank in range(2):
        with monkeypatch.context() as torchrun:
            torchrun.setenv("RANK", str(rank))
            torchrun.setenv("WORLD_SIZE", "2")
            told = tool("extract_features", "--config", config("shares"))
        assert f"train list (share {rank + 1} of 2): 4 clips" in told
    assert rows_of(tmp_path / "shares") == expected

    class Processes(Group):  # the second of two processes, as far as it can tell
        def gather(self, value: Any) -> list[Any]:
            return [value]

    values = clip_config(demo, tmp_path, motion, data={"cache": str(tmp_path / "processes")})
    for part in ("train", "test"):
        open_list([CLIPStream(values, "abcdefgh", weights=True)], part, Processes(rank=1, world=2))  # type: ignore[arg-type]
    assert rows_of(tmp_path / "processes") == expected

    plain, left = CLIPStream.encode_view, iter(range(11))

    def interrupted(*arguments: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return plain(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(CLIPStream, "encode_view", interrupted)
        open_clip_stream(load_config(config("interrupted")))
    kept = rows_of(tmp_path / "interrupted")
    assert 0 < len(kept) < 16 and kept.items() <= expected.items()
    tool("extract_features", "--config", config("interrupted"))
    assert rows_of(tmp_path / "interrupted") == expected


def test_extraction_refuses_other_streams(demo: Path, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(json.dumps(motion_config(demo, tmp_path).model_dump(mode="json")))
    refused = tool("extract_features", "--config", tmp_path / "c.yaml", "--streams", "mv", ok=False)
    assert "the mv stream has no features" in refused


# -- the head ------------------------------------------------------------------------------------------------


def test_frozen_means_frozen(demo: Path, motion: Path, tmp_path: Path) -> None:
    stream, clips = open_clip_stream(clip_config(demo, tmp_path, motion))
    stream.start_training(clips.features["clip"].rows)
    net = stream.head
    assert net.motion is not None
    everything = torch.nn.ModuleDict({"image": stream.encoder, "net": net})
    before = {name: value.clone() for name, value in everything.state_dict().items()}
    optimizer = create_optimizer(net, TrainConfig(lr=0.1, weight_decay=0.1))
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert trained == {id(parameter) for parameter in net.head.parameters()}
    everything.train()  # what a careless loop does
    pictures = stream.encoder(torch.randn(4, 3, 32, 32))
    motion_features = net.motion(torch.randn(4, 1, 3, 2, 48, 48))
    logits = net(torch.cat([pictures, motion_features], dim=1))
    torch.nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    optimizer.step()
    assert net.head.training
    assert not any(module.training for module in [*net.motion.modules(), *stream.encoder.modules()])
    for name, parameter in everything.named_parameters():
        assert (parameter.grad is not None) == name.startswith("net.head."), name
    changed = {name for name, value in everything.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"net.head.{name}" for name in net.head.state_dict()}


def test_training_changes_the_head_alone_and_learns(demo: Path, motion: Path, tmp_path: Path) -> None:
    config = clip_config(demo, tmp_path, motion, train={"epochs": 20, "lr": 5e-3}, clip={"dropout": 0.1})
    state, original = weights_of(train({"clip": config})["clip"]), weights_of(motion)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.3 * lines[0]["loss"]
    frozen = {name.removeprefix("motion.stream."): value for name, value in state.items() if "motion." in name}
    assert frozen.keys() == original.keys() - {"backbone.classifier.weight", "backbone.classifier.bias"}
    assert all(torch.equal(value, original[name]) for name, value in frozen.items())
    # checkpoints written by earlier versions have these names too
    assert {name.split(".")[0] for name in state} == {"motion", "head", "mean", "deviation", "clip_digest"}
    assert {name for name in state if name.startswith("head.")} == {
        f"head.{number}.{leaf}" for number in (0, 3) for leaf in ("weight", "bias")
    }


@pytest.mark.slow
def test_two_runs_give_the_same_bits(demo: Path, motion: Path, trained: Path, tmp_path: Path) -> None:
    data = {"cache": str(tmp_path / "fresh"), "workers": 2}
    again = train({"clip": clip_config(demo, tmp_path, motion, data=data)})["clip"]
    assert same(weights_of(trained), weights_of(again))
    np.testing.assert_array_equal(score_checkpoint(trained).scores, score_checkpoint(again).scores)


@pytest.mark.slow
def test_trained_together_with_a_frame_stream_or_alone(demo: Path, motion: Path, tmp_path: Path) -> None:
    """The motion stream reads frames and the CLIP stream features, of the same clips in the same steps."""
    changes: dict[str, Any] = {"data": {"cache": str(tmp_path / "cache"), "workers": 2}}

    def configs(folder: Path) -> dict[str, Any]:
        train_mv = {"epochs": 1, "batch_size": 4, "precision": "fp32", "mixup": 0.2}
        return {
            "mv": motion_config(demo, folder / "mv", train=train_mv, **changes),
            "clip": clip_config(demo, folder / "clip", motion, train={"epochs": 2, "val_every": 1}, **changes),
        }

    train(configs(tmp_path / "together"))
    for name, config in configs(tmp_path / "alone").items():
        train({name: config})
        assert same(outcome(tmp_path / "together" / name), outcome(tmp_path / "alone" / name)), name


def test_a_checkpoint_is_all_that_testing_needs(demo: Path, trained: Path, tmp_path: Path) -> None:
    expected = score_checkpoint(trained)
    assert trained.stat().st_size < 60e6
    content = load_checkpoint(trained)
    content["config"]["clip"]["motion"] = "/nowhere/best.pt"  # the motion network comes with the checkpoint
    save_checkpoint(tmp_path / "moved.pt", content)
    np.testing.assert_array_equal(score_checkpoint(tmp_path / "moved.pt").scores, expected.scores)
    facts = expected.settings
    assert (facts["stream"], facts["segments"], facts["fusion_weight"]) == ("clip", 3, 1.0)
    assert facts["gflops_per_clip"] == pytest.approx(facts["gflops_once"] + 3 * facts["gflops_per_frame"])
    assert facts["ms_network"] > 1  # of the frozen networks too, cached or not

    stream = load_stream(trained)
    clips, _ = open_list([stream], "test")
    with torch.inference_mode():
        np.testing.assert_allclose(expected.scores, stream.network(clips.features["clip"].rows).numpy(), atol=1e-5)

    content["config"]["seed"] = 5  # another random CLIP
    save_checkpoint(tmp_path / "other.pt", content)
    with pytest.raises(CheckpointError, match="features of another CLIP"):
        score_checkpoint(tmp_path / "other.pt")


def test_resuming_on_other_features_is_refused(demo: Path, motion: Path, tmp_path: Path) -> None:
    train({"clip": clip_config(demo, tmp_path, motion, train={"epochs": 1})})
    content = load_checkpoint(motion)
    content["model"]["data_bn.running_mean"] += 1
    save_checkpoint(tmp_path / "motion.pt", content)
    last = load_checkpoint(tmp_path / "last.pt")
    last["config"]["clip"]["motion"] = str(tmp_path / "motion.pt")
    save_checkpoint(tmp_path / "last.pt", last)
    with pytest.raises(CheckpointError, match="trained on other features"):
        train({"clip": clip_config(demo, tmp_path, tmp_path / "motion.pt", train={"epochs": 1})}, resume=True)


def test_the_motion_checkpoint_is_checked(
    demo: Path, motion: Path, trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = load_checkpoint(motion)
    for name, settings in {"lacks": {"stream": "mv"}, "wrong": {**content["config"], "model": {"backbone": 3}}}.items():
        save_checkpoint(tmp_path / f"{name}.pt", {**content, "config": settings})
    for path, model, kind, words in (
        (None, {}, ConfigError, r"clip\.motion is not set"),
        (tmp_path / "lacks.pt", {}, ConfigError, r"lacks\.pt: key 'data.*' is missing"),
        (tmp_path / "wrong.pt", {}, ConfigError, r"wrong\.pt: key 'model\.backbone' is 3"),
        (trained, {}, CheckpointError, "of the clip stream"),
        (
            motion,
            {"backbone": "resnet34"},
            CheckpointError,
            r"backbone is timm/test_efficientnet, but model\.backbone is resnet34",
        ),
        (tmp_path / "none.pt", {}, CheckpointError, "no such file"),
    ):
        with pytest.raises(kind, match=words) as caught:
            open_clip_stream(clip_config(demo, tmp_path, path, model=model))
        assert "\n" not in str(caught.value)
    shutil.copy(demo / "lists/train_split1.txt", tmp_path / "split2.txt")
    with caplog.at_level(logging.WARNING):
        open_clip_stream(clip_config(demo, tmp_path, motion))
        assert "was trained on" not in caplog.text
        open_clip_stream(clip_config(demo, tmp_path, motion, data={"train_list": str(tmp_path / "split2.txt")}))
    assert "was trained on" in caplog.text


def test_probes_are_the_same_stream_with_one_part(demo: Path, motion: Path, tmp_path: Path) -> None:
    for part, inputs in (("image", 24), ("motion", FEATURES)):
        clip = {"parts": part, "hidden": 0}
        best = train({"clip": clip_config(demo, tmp_path / part, motion, clip=clip, train={"epochs": 1})})["clip"]
        net = load_stream(best).network
        assert isinstance(net, CLIPFusionHead)
        assert sum(p.numel() for p in net.parameters() if p.requires_grad) == inputs * 8 + 8
        assert score_checkpoint(best).scores.shape == (8, 8)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_predict_takes_a_clip_checkpoint(demo: Path, motion: Path, trained: Path, precision: str) -> None:
    scores = score_checkpoint(trained)
    video = demo / "videos" / str(scores.names[4])
    both = Predictor([motion, trained], [f"train.precision={precision}"], weights={"clip": 3})(video)
    # the frozen networks compute in single precision all the same
    np.testing.assert_allclose(both.scores["clip"], scores.scores[4], atol=1e-4 if precision == "fp32" else 0.02)
    assert list(both.seen) == ["motion", "CLIP image", "CLIP motion"]
    if precision == "fp32":
        np.testing.assert_allclose(both.scores["mv"], score_checkpoint(motion).scores[4], atol=1e-3)
    expected = (both.scores["mv"] + 3 * both.scores["clip"]) / 4
    np.testing.assert_allclose(both.scores["fused"], expected, atol=1e-4)


def test_a_clip_stream_is_not_exported(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the clip stream cannot be exported"):
        export_run([trained], tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_clip_is_fused_with_other_streams(motion: Path, trained: Path, tmp_path: Path) -> None:
    told = tool("fuse", "--checkpoints", motion, trained, "--weights", "clip=3", "--output", tmp_path)
    assert "| baseline | clip |" in told
    single = {"mv": score_checkpoint(motion), "clip": score_checkpoint(trained)}
    for name, scores in single.items():
        np.testing.assert_array_equal(load_scores(tmp_path / f"scores/{name}_baseline.npz").scores, scores.scores)
    fused = load_scores(tmp_path / "scores/fused_baseline.npz")
    np.testing.assert_allclose(fused.scores, single["mv"].scores + 3 * single["clip"].scores, rtol=1e-5, atol=1e-6)
    assert fused.settings["weights"] == {"mv": 1, "clip": 3}


# -- zero-shot -----------------------------------------------------------------------------------------------


def test_zero_shot_is_scored_by_the_same_tool_and_fuses(demo: Path, trained: Path, tmp_path: Path) -> None:
    values = clip_settings(demo, tmp_path, None)
    values.pop("stream")
    (tmp_path / "z.yaml").write_text(json.dumps({**values, "streams": {"clip": {}, "zero_shot": {}}}))
    command = ["test_stream", "--config", tmp_path / "z.yaml", "--scores", tmp_path / "z.npz"]
    assert "zero_shot, baseline: top-1" in tool(*command, "--streams", "zero_shot")
    scores = load_scores(tmp_path / "z.npz")
    assert np.abs(scores.scores).max() <= 100

    stream = load_untrained(tmp_path / "z.yaml", name="zero_shot")
    clips, _ = open_list([stream], "test")
    tokens = open_clip.SimpleTokenizer(context_length=24)
    encoder = stream.encoder  # type: ignore[attr-defined]
    with torch.no_grad():  # class 3 by hand
        texts = tokens([template.format("rows pulse") for template in TEMPLATES])
        text = torch.nn.functional.normalize(encoder.model.encode_text(texts), dim=-1).mean(dim=0)
        expected = 100 * torch.nn.functional.cosine_similarity(text, clips.features["zero_shot"].rows[2], dim=0)
    assert scores.classes[3] == "rows_pulse"
    assert scores.scores[2, 3] == pytest.approx(float(expected), abs=1e-3)

    assert fuse({"clip": score_checkpoint(trained), "zero_shot": scores}).scores.shape == (8, 8)
    assert "nothing to train" in tool(
        "train_stream", "--config", tmp_path / "z.yaml", "--streams", "zero_shot", ok=False
    )
    assert "give its --checkpoint" in tool(*command, "--streams", "clip", ok=False)
    assert "give --checkpoint, or --config" in tool("test_stream", "--scores", tmp_path / "z.npz", ok=False)


def test_cost_of_a_clip(trained: Path) -> None:
    stream = load_stream(trained)
    net, cost = stream.network, stream.cost()
    assert isinstance(net, CLIPFusionHead) and net.motion is not None
    assert cost.per_frame == count_flops(net.motion, (1, 1, 1, 2, 48, 48))
    tower, size = picture_tower(stream.config.clip)
    head = (24 + FEATURES) * 512 + 512 * 8
    assert cost.once == count_flops(tower, (1, 3, size, size)) + head


def test_an_unknown_clip_is_one_line(demo: Path, tmp_path: Path) -> None:
    for clip, words in (
        ({"model": "ViT-B-23"}, "did you mean ViT-B-32"),
        ({"model": "ViT-B-32", "pretrained": "openay"}, "choose from openai"),
        ({"model": TINY_CLIP, "pretrained": "openai"}, "no published weights"),
        ({"model": {"embed_dim": 3}}, "is not a description of a CLIP"),
        ({"pretrained": "/nowhere/w.pt"}, "no such weights file"),
    ):
        with pytest.raises((ModelError, CheckpointError), match=words) as caught:
            open_clip_stream(clip_config(demo, tmp_path, None, clip={"parts": "image", **clip}))
        assert "\n" not in str(caught.value)
