"""The CLIP stream from extraction to scores: features kept once, frozen means frozen, head, zero-shot."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_stream import TINY_CLIP, clip_config, clip_settings, motion_config

from coviar_mocrop.checkpoint import load_checkpoint, save_checkpoint
from coviar_mocrop.clips.features import ClipState, FeatureDataset, FeatureStore
from coviar_mocrop.clips.loading import open_clips
from coviar_mocrop.datasets.demo import make_demo
from coviar_mocrop.errors import CheckpointError, ConfigError, DataError, ModelError
from coviar_mocrop.files import DataRoot
from coviar_mocrop.flops import count_flops
from coviar_mocrop.fusion import fuse
from coviar_mocrop.inference.export import export_stream
from coviar_mocrop.inference.predictor import Predictor
from coviar_mocrop.inference.testing import load_stream, score_checkpoint
from coviar_mocrop.networks.fusion_head import ClipNet
from coviar_mocrop.scores import load_scores, save_scores
from coviar_mocrop.streams.clip_stream import create_clip_net, open_parts
from coviar_mocrop.streams.features import open_stores
from coviar_mocrop.training.optim import TrainConfig, create_optimizer
from coviar_mocrop.training.trainer import train

pytest.importorskip("open_clip")
TOOLS = Path(__file__).parent.parent / "tools"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    make_demo(folder / "videos", folder / "lists", train_clips=8, test_clips=8, progress=False)
    return folder


@pytest.fixture(scope="module")
def motion(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(motion_config(demo, tmp_path_factory.mktemp("motion")))


@pytest.fixture(scope="module")
def trained(demo: Path, motion: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(clip_config(demo, tmp_path_factory.mktemp("clip"), motion))


def features_of(config: Any, part: Any = "train", **more: Any) -> FeatureDataset:
    clips, _ = open_clips(config, part, **more)
    assert isinstance(clips, FeatureDataset)
    return clips


def files_of(cache: Path) -> dict[str, bytes]:
    return {str(path.relative_to(cache)): path.read_bytes() for path in sorted(cache.rglob("*.npz"))}


# -- features ------------------------------------------------------------------------------------------------


def test_features_are_those_of_the_networks_whatever_the_workers(demo: Path, motion: Path, tmp_path: Path) -> None:
    caches = {}
    for workers in (0, 3):
        data = {"cache": str(tmp_path / str(workers)), "workers": workers}
        clips = features_of(clip_config(demo, tmp_path, motion, setting="attention", data=data))
        assert clips.features.shape == (8, 24 + 512)
        assert clips.computed == 8
        caches[workers] = files_of(tmp_path / str(workers))
    assert caches[0] == caches[3]
    assert len(caches[0]) == 16

    config = clip_config(demo, tmp_path, motion, setting="baseline", data={"cache": str(tmp_path / "c")})
    clips, parts = features_of(config), open_parts(config)
    from coviar_mocrop.bitstream import open_video
    from coviar_mocrop.clips.dataset import ClipDataset

    frames = ClipDataset(clips.videos, "mv", 48, config.data, config.input)[0, 3].frames
    assert frames is not None and parts.motion is not None and parts.image is not None
    with torch.no_grad():
        expected = parts.motion.stream.frame_logits(frames).mean(dim=0)  # its classifier is gone
    torch.testing.assert_close(clips.features[3, 24:], expected, atol=1e-5, rtol=1e-4)
    with open_video(demo / "videos" / clips.videos.clips[3].path) as video:
        middle = max(number for number, gop in enumerate(video.gops) if gop.start <= video.info.num_frames // 2)
        picture = video.iframe(middle)
    with torch.no_grad():
        expected = parts.image(parts.image.prepare(picture[None], stretch=False))[0]
    torch.testing.assert_close(clips.features[3, :24], expected, atol=1e-5, rtol=1e-4)


def test_more_frames_are_averaged_and_the_box_matters(demo: Path, motion: Path, tmp_path: Path) -> None:
    def image(**changes: Any) -> torch.Tensor:
        clip = {"parts": "image", **changes.pop("clip", {})}
        return features_of(clip_config(demo, tmp_path, None, clip=clip, **changes)).features

    one, three, single = image(), image(clip={"frames": 3}), image(clip={"frames": 1})
    assert torch.equal(one, single)
    assert not torch.allclose(one, three)
    boxed, unboxed = image(setting="attention"), image(setting="attention", clip={"crop": False})
    assert not torch.allclose(boxed, one)
    assert torch.equal(unboxed, one)


def test_what_is_cached_is_not_computed_again_and_what_is_stale_is(
    demo: Path, motion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    import coviar_mocrop.streams.features as module

    videos = tmp_path / "videos"
    shutil.copytree(demo / "videos", videos)
    read: list[str] = []
    plain = module.read_clip

    def counting(config: Any, parts: Any, name: str) -> Any:
        read.append(name)
        return plain(config, parts, name)

    monkeypatch.setattr(module, "read_clip", counting)

    def config(**changes: Any) -> Any:
        data = {"root": str(videos), "cache": str(tmp_path / "cache")}
        return clip_config(demo, tmp_path, motion, **{"data": data, **changes})

    first = features_of(config())
    assert len(read) == 8
    read.clear()
    assert torch.equal(features_of(config()).features, first.features)
    assert read == []

    name, other = (first.videos.clips[number].path for number in (2, 3))
    shutil.copyfile(videos / other, videos / name)  # another clip under the old name
    changed = features_of(config())
    assert read == [name]
    assert torch.equal(changed.features[2], first.features[3])
    read.clear()

    for change, count in (
        ({"seed": 1}, 8),  # another CLIP: its random weights follow from the seed
        ({"clip": {"frames": 2}}, 8),
        ({"input": {"test_segments": 2}}, 8),
        ({"setting": "attention"}, 8),
        ({"setting": "attention", "mocrop": {"area_ratio": 0.5}}, 8),
        ({"setting": "attention"}, 0),
    ):
        features_of(config(**change))
        assert len(read) == count, change
        read.clear()

    kept = sorted((tmp_path / "cache").rglob("*.npz"))
    for broken in kept:
        broken.write_bytes(broken.read_bytes()[:100])
    assert torch.equal(features_of(config()).features, changed.features)
    assert len(read) == 8


def test_a_store_knows_its_own(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"video")
    root = DataRoot(tmp_path)
    state = ClipState.of(root, "a.mp4", None)
    store = FeatureStore(tmp_path / "c", str(tmp_path), {"network": "x"}, 3)
    other = FeatureStore(tmp_path / "c", str(tmp_path), {"network": "y"}, 3)
    feature = np.array([1, 2, 3], np.float32)
    assert store.get("a.mp4", state) is None
    store.put("a.mp4", state, feature)
    np.testing.assert_array_equal(store.get("a.mp4", state), feature)
    assert other.get("a.mp4", state) is None
    for path in list(store.folder.rglob("*.npz")):  # moved by hand into another network's folder
        place = other.folder / path.relative_to(store.folder)
        place.parent.mkdir(parents=True)
        place.write_bytes(path.read_bytes())
    assert other.get("a.mp4", state) is None
    from coviar_mocrop.mocrop import CropBox

    assert store.get("a.mp4", ClipState(state.size, state.changed, CropBox(0, 0, 0.5, 1))) is None
    assert store.get("a.mp4", ClipState(state.size, state.changed + 1, None)) is None
    with pytest.raises(DataError, match="not finite"):
        store.put("a.mp4", state, np.array([1, np.nan, 3], np.float32))
    with pytest.raises(DataError, match=r"b\.mp4: no such file"):
        ClipState.of(root, "b.mp4", None)


def test_a_missing_clip_is_an_error_or_left_out_never_zeros(demo: Path, motion: Path, tmp_path: Path) -> None:
    lines = (demo / "lists/train_split1.txt").read_text().splitlines()
    (tmp_path / "l.txt").write_text("\n".join([*lines[:3], lines[3].replace(".mp4", "_gone.mp4")]))
    data = {"train_list": str(tmp_path / "l.txt")}
    with pytest.raises(DataError, match=r"_gone\.mp4: no such file"):
        open_clips(clip_config(demo, tmp_path, motion, data=data), "train")
    clips, skipped = open_clips(clip_config(demo, tmp_path, motion, data={**data, "on_error": "skip"}), "train")
    assert len(clips) == 3
    assert len(skipped.reasons) == 1
    (tmp_path / "l.txt").write_text(lines[3].replace(".mp4", "_gone.mp4"))
    with pytest.raises(DataError, match="none of its clips"):
        open_clips(clip_config(demo, tmp_path, motion, data={**data, "on_error": "skip"}), "train")


def extract(config: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(TOOLS / "extract_features.py"), "--config", str(config), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_shares_and_a_killed_run_leave_the_same_cache(demo: Path, motion: Path, tmp_path: Path) -> None:
    def config(name: str, **data: Any) -> Path:
        values = clip_settings(demo, tmp_path, motion, data={"cache": str(tmp_path / name), **data})
        (tmp_path / f"{name}.yaml").write_text(json.dumps(values))
        return tmp_path / f"{name}.yaml"

    whole = extract(config("whole"))
    shares = [extract(config("shares"), "--shard", f"{k}/2") for k in (1, 2)]
    killed = extract(config("killed"))
    cache = tmp_path / "killed"
    limit = time.monotonic() + 120
    while len(list(cache.rglob("*.npz"))) < 5 and time.monotonic() < limit and killed.poll() is None:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    outputs = [job.communicate(timeout=240) for job in (whole, *shares)]
    assert all(job.returncode == 0 for job in (whole, *shares)), outputs
    assert "8 clips with features, 8 of them computed now" in outputs[0][0]
    assert "train list, part 1 of 2: 4 clips" in outputs[1][0]

    expected = files_of(tmp_path / "whole")
    assert len(expected) == 32  # 16 clips, two kinds
    assert files_of(tmp_path / "shares") == expected
    before = len([path for path in cache.rglob("*.npz") if not path.name.startswith(".")])
    again = extract(config("killed"))
    assert again.communicate(timeout=240)[1] is not None and again.returncode == 0
    assert before < 32, "it was killed too late to mean anything"
    complete = {name: content for name, content in files_of(cache).items() if not Path(name).name.startswith(".")}
    assert complete == expected


def test_extraction_refuses_other_streams(demo: Path, motion: Path, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(json.dumps(motion_config(demo, tmp_path).model_dump(mode="json")))
    job = extract(tmp_path / "c.yaml")
    assert "the mv stream has no features" in job.communicate(timeout=120)[1]
    assert job.returncode == 2


# -- the head ------------------------------------------------------------------------------------------------


def test_frozen_means_frozen(demo: Path, motion: Path, tmp_path: Path) -> None:
    config = clip_config(demo, tmp_path, motion)
    parts, clips = open_parts(config), features_of(config)
    net = create_clip_net(config, 8, clips)
    assert parts.image is not None and net.motion is not None
    everything = torch.nn.ModuleDict({"image": parts.image, "net": net})
    before = {name: value.clone() for name, value in everything.state_dict().items()}
    optimizer = create_optimizer(net, TrainConfig(lr=0.1, weight_decay=0.1))
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert trained == {id(parameter) for parameter in net.head.parameters()}
    everything.train()  # what a careless loop does
    pictures = parts.image(torch.randn(4, 3, 32, 32))
    motion_features = net.motion(torch.randn(4, 3, 2, 48, 48))
    logits = net(torch.cat([pictures, motion_features], dim=1))
    torch.nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    optimizer.step()
    assert net.head.training and not net.motion.training and not parts.image.training
    assert not any(module.training for module in [*net.motion.modules(), *parts.image.modules()])
    for name, parameter in everything.named_parameters():
        assert (parameter.grad is not None) == name.startswith("net.head."), name
    changed = {name for name, value in everything.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"net.head.{name}" for name in net.head.state_dict()}


def test_training_changes_the_head_alone_and_learns(demo: Path, motion: Path, trained: Path, tmp_path: Path) -> None:
    best = train(clip_config(demo, tmp_path, motion, train={"epochs": 40, "lr": 3e-3}, clip={"dropout": 0.1}))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.3 * lines[0]["loss"]
    state, original = load_checkpoint(best)["model"], load_checkpoint(motion)["model"]
    frozen = {name.removeprefix("motion.stream."): value for name, value in state.items() if "motion." in name}
    classifier = {"backbone.fc.weight", "backbone.fc.bias"}
    assert frozen.keys() == original.keys() - classifier
    assert all(torch.equal(value, original[name]) for name, value in frozen.items())
    assert {name.split(".")[0] for name in state} == {"motion", "head", "mean", "deviation", "clip_digest"}


def test_two_runs_give_the_same_bits(demo: Path, motion: Path, trained: Path, tmp_path: Path) -> None:
    data = {"cache": str(tmp_path / "fresh"), "workers": 2}
    again = train(clip_config(demo, tmp_path, motion, data=data))
    first, second = load_checkpoint(trained)["model"], load_checkpoint(again)["model"]
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    one, two = score_checkpoint(trained), score_checkpoint(again)
    np.testing.assert_array_equal(one.scores, two.scores)


def test_a_checkpoint_is_all_that_testing_needs(demo: Path, motion: Path, trained: Path, tmp_path: Path) -> None:
    expected = score_checkpoint(trained)
    assert trained.stat().st_size < 60e6
    content = load_checkpoint(trained)
    content["config"]["clip"]["motion"] = "/nowhere/best.pt"  # the motion network comes with the checkpoint
    save_checkpoint(tmp_path / "moved.pt", content)
    np.testing.assert_array_equal(score_checkpoint(tmp_path / "moved.pt").scores, expected.scores)
    facts = expected.settings
    assert (facts["stream"], facts["segments"]) == ("clip", 3)
    assert facts["gflops_per_clip"] == pytest.approx(facts["gflops_once"] + 3 * facts["gflops_per_frame"])
    assert facts["ms_network"] > 1  # of the frozen networks too, cached or not

    stream = load_stream(trained)
    clips = features_of(stream.config, "test", model=stream.model)
    with torch.inference_mode():
        np.testing.assert_allclose(expected.scores, stream.model(clips.features).numpy(), atol=1e-5)

    content["config"]["seed"] = 5  # another random CLIP
    save_checkpoint(tmp_path / "other.pt", content)
    with pytest.raises(CheckpointError, match="features of another CLIP"):
        score_checkpoint(tmp_path / "other.pt")


def test_resuming_on_other_features_is_refused(demo: Path, motion: Path, tmp_path: Path) -> None:
    train(clip_config(demo, tmp_path, motion, train={"epochs": 1}))
    content = load_checkpoint(motion)
    content["model"]["data_bn.running_mean"] += 1
    save_checkpoint(tmp_path / "motion.pt", content)
    last = load_checkpoint(tmp_path / "last.pt")
    last["config"]["clip"]["motion"] = str(tmp_path / "motion.pt")
    save_checkpoint(tmp_path / "last.pt", last)
    with pytest.raises(CheckpointError, match="trained on other features"):
        train(clip_config(demo, tmp_path, tmp_path / "motion.pt", train={"epochs": 1}), resume=True)


def test_the_motion_checkpoint_is_checked(demo: Path, motion: Path, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"clip\.motion is not set"):
        open_clips(clip_config(demo, tmp_path, None), "train")
    with pytest.raises(CheckpointError, match="of the clip stream"):
        open_clips(clip_config(demo, tmp_path, trained), "train")
    with pytest.raises(CheckpointError, match=r"backbone is resnet18, but model\.backbone is resnet34"):
        open_clips(clip_config(demo, tmp_path, motion, model={"backbone": "resnet34"}), "train")
    with pytest.raises(CheckpointError, match="no such file"):
        open_clips(clip_config(demo, tmp_path, tmp_path / "none.pt"), "train")


def test_probes_are_the_same_stream_with_one_part(demo: Path, motion: Path, tmp_path: Path) -> None:
    for part, inputs in (("image", 24), ("motion", 512)):
        clip = {"parts": part, "hidden": 0}
        best = train(clip_config(demo, tmp_path / part, motion, clip=clip, train={"epochs": 1}))
        net = load_stream(best).model
        assert isinstance(net, ClipNet)
        assert sum(p.numel() for p in net.parameters() if p.requires_grad) == inputs * 8 + 8
        assert score_checkpoint(best).scores.shape == (8, 8)


def test_predict_takes_a_clip_checkpoint(demo: Path, motion: Path, trained: Path) -> None:
    scores = score_checkpoint(trained)
    video = demo / "videos" / str(scores.names[4])
    alone = Predictor([trained])(video)
    np.testing.assert_allclose(alone.scores["clip"], scores.scores[4], atol=1e-4)
    assert set(alone.windows) == set(alone.seen) == {"iframe", "mv"}
    both = Predictor([motion, trained], weights={"clip": 3})(video)
    np.testing.assert_allclose(both.scores["clip"], scores.scores[4], atol=1e-4)
    np.testing.assert_allclose(both.scores["mv"], score_checkpoint(motion).scores[4], atol=1e-3)
    expected = (both.scores["mv"] + 3 * both.scores["clip"]) / 4
    np.testing.assert_allclose(both.scores["fused"], expected, atol=1e-4)


def test_a_clip_stream_is_not_exported(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the clip stream cannot be exported"):
        export_stream(trained, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_four_score_files_fuse(demo: Path, motion: Path, trained: Path, tmp_path: Path) -> None:
    scores = {"mv": score_checkpoint(motion), "clip": score_checkpoint(trained)}
    for name in ("iframe", "residual"):
        changes = {"stream": name, "output": str(tmp_path / name)}
        best = train(motion_config(demo, tmp_path).model_copy(update=changes))
        scores[name] = score_checkpoint(best)
    for name, scored in scores.items():
        save_scores(tmp_path / f"{name}.npz", scored)
    files = [f"{name}={tmp_path}/{name}.npz" for name in ("iframe", "mv", "residual", "clip")]
    command = [sys.executable, str(TOOLS / "fuse.py"), "--scores", *files, "--weights", "clip=3"]
    done = subprocess.run([*command, "--output", str(tmp_path / "out")], capture_output=True, text=True, check=True)
    assert "| baseline | clip |" in done.stdout
    fused = load_scores(tmp_path / "out/scores/fused_baseline.npz")
    expected = sum(w * scores[n].scores for n, w in {"iframe": 2, "mv": 1, "residual": 1, "clip": 3}.items())
    np.testing.assert_allclose(fused.scores, expected, rtol=1e-5)
    assert fused.settings["weights"] == {"iframe": 2, "mv": 1, "residual": 1, "clip": 3}


# -- zero-shot -----------------------------------------------------------------------------------------------


def test_zero_shot_is_scored_by_the_same_tool_and_fuses(
    demo: Path, motion: Path, trained: Path, tmp_path: Path
) -> None:
    values = clip_settings(demo, tmp_path, None, stream="zero_shot")
    (tmp_path / "z.yaml").write_text(json.dumps(values))
    command = [sys.executable, str(TOOLS / "test_stream.py"), "--config", str(tmp_path / "z.yaml")]
    done = subprocess.run(
        [*command, "--scores", str(tmp_path / "z.npz")], capture_output=True, text=True, check=True, timeout=240
    )
    assert "zero_shot, baseline: top-1" in done.stdout
    scores = load_scores(tmp_path / "z.npz")
    assert np.abs(scores.scores).max() <= 100
    np.testing.assert_array_equal(scores.scores, score_checkpoint(None, config_file=tmp_path / "z.yaml").scores)

    import open_clip

    config = clip_config(demo, tmp_path, None, stream="zero_shot")
    encoder = open_parts(config).image
    assert encoder is not None
    tokens = open_clip.SimpleTokenizer(context_length=24)
    from coviar_mocrop.networks.prompts import TEMPLATES

    with torch.no_grad():  # class 3 by hand
        texts = tokens([template.format("rows pulse") for template in TEMPLATES])
        text = torch.nn.functional.normalize(encoder.model.encode_text(texts), dim=-1).mean(dim=0)  # type: ignore
        picture = features_of(config, "test").features[2]
        expected = 100 * torch.nn.functional.cosine_similarity(text, picture, dim=0)
    assert scores.classes[3] == "rows_pulse"
    assert scores.scores[2, 3] == pytest.approx(float(expected), abs=1e-3)

    assert fuse({"clip": score_checkpoint(trained), "zero_shot": scores}).scores.shape == (8, 8)
    with pytest.raises(ConfigError, match="nothing to train"):
        train(config)
    with pytest.raises(ConfigError, match="give its --checkpoint"):
        (tmp_path / "c.yaml").write_text(json.dumps(clip_settings(demo, tmp_path, motion)))
        score_checkpoint(None, config_file=tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match="give --checkpoint, or --config"):
        score_checkpoint(None)


def test_cost_of_the_real_thing_and_of_a_score_file(demo: Path, trained: Path) -> None:
    stream = load_stream(trained)
    net = stream.model
    assert isinstance(net, ClipNet) and net.motion is not None
    from coviar_mocrop.networks.clip import picture_tower
    from coviar_mocrop.streams.clip_stream import clip_cost

    cost = clip_cost(net, stream.config)
    assert cost.per_frame == count_flops(net.motion, (1, 1, 2, 48, 48))
    tower, size = picture_tower(stream.config.clip)
    head = 536 * 512 + 512 * 8
    assert cost.once == count_flops(tower, (1, 3, size, size)) + head


def test_stores_are_told_apart_by_part(demo: Path, motion: Path, tmp_path: Path) -> None:
    config = clip_config(demo, tmp_path, motion)
    stores = open_stores(config, open_parts(config))
    assert list(stores) == ["image", "motion"]
    assert stores["image"].folder != stores["motion"].folder


def test_an_unknown_clip_is_one_line(demo: Path, tmp_path: Path) -> None:
    for clip, words in (
        ({"model": "ViT-B-23"}, "did you mean ViT-B-32"),
        ({"model": "ViT-B-32", "pretrained": "openay"}, "choose from openai"),
        ({"model": TINY_CLIP, "pretrained": "openai"}, "no published weights"),
        ({"model": {"embed_dim": 3}}, "no description of a CLIP"),
        ({"pretrained": "/nowhere/w.pt"}, "no such weights file"),
    ):
        with pytest.raises((ModelError, CheckpointError), match=words) as caught:
            open_clips(clip_config(demo, tmp_path, None, clip={"parts": "image", **clip}), "train")
        assert "\n" not in str(caught.value)
