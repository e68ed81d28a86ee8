"""Shards: what is packed, that reading and training from them is that from files bit for bit, and all that is wrong."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from demo import outcome, same, small_config, torchrun
from hypothesis import given
from hypothesis import strategies as st
from web import Server, serving

from coviar_mocrop import storage
from coviar_mocrop.clips.boxes import extract_boxes
from coviar_mocrop.clips.dataset import ClipDataset, SkipLog
from coviar_mocrop.clips.lists import read_videos
from coviar_mocrop.clips.loading import open_clips
from coviar_mocrop.clips.packing import Packed, pack_shards
from coviar_mocrop.clips.shard_index import find_shards, unpack_index
from coviar_mocrop.config import Config
from coviar_mocrop.datasets.demo import make_demo
from coviar_mocrop.datasets.lists import Form, groups_beside, read_classes, read_list
from coviar_mocrop.errors import ConfigError, DataError, ListError, VideoError
from coviar_mocrop.inference.testing import score_checkpoint
from coviar_mocrop.streams.base import create_stream
from coviar_mocrop.training.trainer import train

pytestmark = pytest.mark.usefixtures("no_figures")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos, lists, and their shards of five clips."""
    folder = tmp_path_factory.mktemp("demo")
    make_demo(folder / "videos", folder / "lists", train_clips=16, test_clips=8, progress=False)
    (folder / "videos/transcode.json").write_text(json.dumps({"codec": "h264", "size": [64, 48], "gop": 12}))
    pack(folder, folder / "shards")
    return folder


def pack(demo: Path, output: Path, clips_per_shard: int = 5, **changes: Any) -> Packed:
    config = small_config(demo, demo / "run", setting="efficiency", data={"workers": 1, **changes})
    return pack_shards(config, output, ["train", "test"], clips_per_shard=clips_per_shard, progress=False)


@pytest.fixture
def shards(demo: Path, tmp_path: Path) -> Path:
    """A copy of the shards, to be damaged."""
    return Path(shutil.copytree(demo / "shards", tmp_path / "shards"))


@pytest.fixture
def server(demo: Path) -> Iterator[Server]:
    with serving(demo) as served:
        yield served


def config_of(demo: Path, output: Path, shards: Any = None, **changes: Any) -> Config:
    """A run; from shards, without a data root and with a cache of its own."""
    data = changes.pop("data", {})
    if shards is not None:
        data = {"root": str(output / "none"), "shards": shards, "cache": str(output / "cache"), **data}
    return small_config(demo, output, setting="efficiency", data=data, **changes)


def clips_of(config: Config, training: bool = False) -> ClipDataset:
    stream = create_stream(config, read_classes(config.data.classes), weights=False)
    return open_clips([stream], read_videos(config.data, "train"), training=training)[0]


def pixels(clips: ClipDataset, index: int) -> dict[str, Any]:
    return next(iter(clips.read(index, list(clips.streams.values()), 1).values())).pixels


# -- packing ---------------------------------------------------------------------------------------------


def test_shards_hold_the_videos_as_they_are(demo: Path) -> None:
    assert sorted(path.name for path in (demo / "shards").glob("*.tar")) == [
        *(f"test-{number:06d}.tar" for number in range(2)),
        *(f"train-{number:06d}.tar" for number in range(4)),
    ]
    assert read_list(demo / "shards/train_split1.txt", read_classes(demo / "shards/classes.txt")) == read_list(
        demo / "lists/train_split1.txt", read_classes(demo / "lists/classes.txt")
    )
    store = clips_of(config_of(demo, demo / "x", str(demo / "shards"))).store
    assert store.form == Form("h264", (64, 48), 12)
    for clip in read_videos(config_of(demo, demo / "x").data, "train").clips:
        assert store.read(clip.path) == (demo / "videos" / clip.path).read_bytes()


def test_boxes_in_the_shards_are_not_computed_again(demo: Path, tmp_path: Path) -> None:
    found = extract_boxes(config_of(demo, tmp_path, str(demo / "shards")), progress=False)
    assert found.computed == 0
    files = extract_boxes(config_of(demo, tmp_path, data={"cache": str(tmp_path / "other")}), progress=False)
    assert files.computed == len(found.boxes) > 0
    assert found.boxes == files.boxes
    area = {"mocrop": {"area_ratio": 0.5}}  # not those of the shards
    other = extract_boxes(config_of(demo, tmp_path, str(demo / "shards"), **area), progress=False)
    assert other.computed == len(found.boxes)


def test_the_webdataset_library_reads_them(demo: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="needs webdataset, of the extra dev")
    videos = read_videos(config_of(demo, demo / "x").data, "train").clips
    pattern = str(demo / "shards/train-{000000..000003}.tar")
    seen = {}
    for sample in webdataset.WebDataset(pattern, shardshuffle=False).decode():
        about = sample["json"]
        number = int(sample["__key__"])
        assert (about["path"], about["class"], about["label"]) == videos[number]
        assert sample["mp4"] == (demo / "videos" / about["path"]).read_bytes()
        assert len(about["box"]) == 4
        seen[number] = about["label"]
    assert sorted(seen) == list(range(16))
    assert list(seen) != sorted(seen) and len(set(list(seen.values())[:5])) > 2  # whoever streams sees all classes


def test_the_same_bytes_whoever_packs_and_nothing_is_packed_twice(demo: Path, tmp_path: Path) -> None:
    videos = Path(shutil.copytree(demo / "videos", tmp_path / "videos"))
    root = {"root": str(videos), "cache": str(tmp_path / "cache")}
    packed = pack(demo, tmp_path / "shards", workers=2, **root)
    assert (packed.clips, len(packed.shards), packed.made, packed.left_out, packed.errors) == (24, 6, 6, 0, {})
    for path in (demo / "shards").glob("*.tar"):
        assert (tmp_path / "shards" / path.name).read_bytes() == path.read_bytes()
    assert pack(demo, tmp_path / "shards", **root) == packed._replace(made=0)
    (tmp_path / "shards/train-000002.tar").write_bytes(b"cut short")
    (tmp_path / "shards/train-000001.npz").unlink()  # as after a kill between the two
    assert pack(demo, tmp_path / "shards", **root) == packed._replace(made=2)
    assert (tmp_path / "shards/train-000002.tar").read_bytes() == (demo / "shards/train-000002.tar").read_bytes()
    clip = read_videos(config_of(demo, tmp_path).data, "train").clips[3].path
    shutil.copy(videos / read_videos(config_of(demo, tmp_path).data, "train").clips[4].path, videos / clip)
    assert pack(demo, tmp_path / "shards", **root).made == 1  # a video has changed


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_clips_that_cannot_be_read_are_not_packed(demo: Path, tmp_path: Path, on_error: str) -> None:
    videos = Path(shutil.copytree(demo / "videos", tmp_path / "videos"))
    clips = read_videos(config_of(demo, tmp_path).data, "train").clips
    (videos / clips[2].path).write_bytes(b"no video")
    (videos / clips[3].path).unlink()
    changes = {"root": str(videos), "cache": str(tmp_path / "cache"), "on_error": on_error}
    if on_error == "raise":
        with pytest.raises(DataError, match=r"and 1 more, see .*failed\.csv\); repair it, or leave such"):
            pack(demo, tmp_path / "shards", **changes)
        assert not (tmp_path / "shards/shards.json").exists()
    else:
        packed = pack(demo, tmp_path / "shards", **changes)
        assert (packed.clips, sorted(packed.errors)) == (22, sorted(clip.path for clip in clips[2:4]))
        assert packed.left_out == 2
        again = pack(demo, tmp_path / "shards", **changes)
        assert (again.clips, again.made, again.left_out, again.errors) == (22, 0, 2, packed.errors)
        assert (tmp_path / "shards/failed.csv").read_text().count("\n") == 3
        with pytest.raises(DataError, match="repair it"):  # what was left out then is not all right now
            pack(demo, tmp_path / "shards", **{**changes, "on_error": "raise"})
    assert not [path.name for path in (tmp_path / "shards").iterdir() if path.name.startswith(".")]


def test_lists_of_one_name_stay_two(demo: Path, tmp_path: Path) -> None:
    lists = {}
    for part in ("train", "test"):
        lists[f"{part}_list"] = str(tmp_path / part / "list.txt")
        (tmp_path / part).mkdir()
        shutil.copy(demo / f"lists/{part}_split1.txt", lists[f"{part}_list"])
    pack(demo, tmp_path / "shards", **lists)
    for part in ("train", "test"):
        assert (tmp_path / f"shards/{part}_list.txt").read_text() == (tmp_path / part / "list.txt").read_text()


def test_lists_can_be_packed_one_by_one(demo: Path, tmp_path: Path) -> None:
    config = small_config(demo, tmp_path, setting="efficiency", data={"workers": 1})
    for part in ("train", "test", "train"):
        pack_shards(config, tmp_path / "shards", [part], clips_per_shard=5, progress=False)
    assert {Path(shard).name for shard in find_shards(str(tmp_path / "shards"))} == {
        path.name for path in (demo / "shards").glob("*.tar")
    }


def test_shards_are_packed_from_shards_but_never_over_themselves(demo: Path, tmp_path: Path) -> None:
    packed = pack(demo, tmp_path / "again", 8, shards=str(demo / "shards"), root=str(tmp_path / "none"))
    assert (packed.clips, len(packed.shards)) == (24, 3)
    with pytest.raises(ConfigError, match="holds the shards that are read"):
        pack(demo, demo / "shards", shards=str(demo / "shards"))


def test_nothing_to_pack_is_an_error(demo: Path, tmp_path: Path) -> None:
    none = config_of(demo, tmp_path, data={"train_list": None, "val_list": None, "test_list": None})
    with pytest.raises(ConfigError, match="none is set; name a video list"):
        pack_shards(none, tmp_path / "shards")


# -- reading ---------------------------------------------------------------------------------------------


def test_clips_are_those_of_files_and_boxes_come_along(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = clips_of(config_of(demo, tmp_path / "a"), training=True)
    clips = clips_of(config_of(demo, tmp_path / "b", str(demo / "shards")), training=True)
    wanted = [pixels(expected, index) for index in range(16)]
    monkeypatch.setattr("coviar_mocrop.clips.reader.BoxEstimator", None)  # no box may be estimated
    for index in range(16):
        found = pixels(clips, index)
        assert found.keys() == wanted[index].keys()
        assert all(np.array_equal(found[name], wanted[index][name]) for name in found)


def test_boxes_of_other_settings_are_estimated_anew(demo: Path, tmp_path: Path) -> None:
    other = {"mocrop": {"area_ratio": 0.3}}
    expected = clips_of(config_of(demo, tmp_path / "a", **other))
    clips = clips_of(config_of(demo, tmp_path / "b", str(demo / "shards"), **other))
    for index in range(4):
        wanted, found = pixels(expected, index), pixels(clips, index)
        assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    clips.keep_boxes()
    again = clips_of(config_of(demo, tmp_path / "b", str(demo / "shards"), **other))
    assert torch.equal(again._boxes[:4], expected._boxes[:4])  # from the cache


def places(demo: Path, server: Server) -> dict[str, Any]:
    memory = fsspec.filesystem("memory")
    memory.put(str(demo / "shards"), "/bucket/shards", recursive=True)
    return {
        "folder": str(demo / "shards"),
        "pattern": (str(demo / "shards/train-{000000..000003}.tar"), str(demo / "shards/test-{000000..000001}.tar")),
        "http": f"{server.address}/shards",
        "memory": "memory://bucket/shards",
    }


@pytest.mark.parametrize(
    "place",
    ["http", *(pytest.param(place, marks=pytest.mark.slow) for place in ("folder", "pattern", "memory"))],
)
def test_training_from_shards_is_training_from_files(demo: Path, server: Server, tmp_path: Path, place: str) -> None:
    one = {"epochs": 1}
    train({"mv": config_of(demo, tmp_path / "files", train=one)})
    shards = places(demo, server)[place]
    train({"mv": config_of(demo, tmp_path / "shards", shards, train=one)})
    assert same(outcome(tmp_path / "files"), outcome(tmp_path / "shards"))
    overrides = [f"data.shards={json.dumps(shards)}", f"data.root={tmp_path / 'none'}"]
    scores = [score_checkpoint(tmp_path / "files/best.pt", changes).scores for changes in ([], overrides)]
    assert np.array_equal(*scores)


def test_a_run_may_go_on_from_shards(demo: Path, tmp_path: Path) -> None:
    def config(name: str, epochs: int, shards: str | None = None) -> Config:
        return config_of(demo, tmp_path / name, shards, train={"epochs": epochs, "schedule": "constant"})

    train({"mv": config("whole", 2)})
    train({"mv": config("parts", 1)})
    train({"mv": config("parts", 2, str(demo / "shards"))}, resume=True)
    assert same(outcome(tmp_path / "whole"), outcome(tmp_path / "parts"))


def test_lists_can_be_read_from_addresses(demo: Path, server: Server, tmp_path: Path) -> None:
    lists = f"{server.address}/shards"
    names = {"train_list": f"{lists}/train_split1.txt", "classes": f"{lists}/classes.txt"}
    config = config_of(demo, tmp_path, lists, data=names)
    assert read_videos(config.data, "train").clips == read_videos(config_of(demo, tmp_path).data, "train").clips
    assert groups_beside(lists) == {}
    with pytest.raises(ListError, match=r"nothing\.txt: no such list"):
        read_classes(f"{lists}/nothing.txt")


def test_a_server_without_ranges_is_copied_once(
    demo: Path, server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.ranges = False
    expected = clips_of(config_of(demo, tmp_path / "a"))
    config = config_of(demo, tmp_path / "b", f"{server.address}/shards")
    for _ in range(2):
        clips = clips_of(config)
        for index in range(16):
            wanted = pixels(expected, index)
            assert all(np.array_equal(value, wanted[name]) for name, value in pixels(clips, index).items())
    assert len(list((tmp_path / "b/cache/shards").glob("*.tar"))) == 4
    assert sum("sends whole files only" in text for text in caplog.messages) == 1
    assert sum(path.endswith(".tar") for path in server.requests) == 4
    server.requests.clear()
    threads = clips_of(config_of(demo, tmp_path / "c", f"{server.address}/shards"))
    assert not any(s.errors for s in threads.__getitems__([(0, index, None) for index in range(16)]))
    assert sum(path.endswith(".tar") for path in server.requests) == 4  # though all clips were asked for at once


def test_a_shard_that_was_replaced_on_a_server_without_ranges_is_copied_once(
    demo: Path, server: Server, shards: Path, tmp_path: Path
) -> None:
    server.ranges = False
    config = config_of(demo, tmp_path / "run", f"{server.address}/replaced", data={"on_error": "skip"})
    replaced = Path(shutil.copytree(shards, demo / "replaced"))
    try:
        clips = clips_of(config)
        for path in replaced.glob("*.tar"):
            path.write_bytes(path.read_bytes() + bytes(512))
        samples = clips.__getitems__([(0, index, None) for index in range(16)])
        assert all("bytes instead of" in str(sample.errors) for sample in samples)
        assert sum(path.endswith(".tar") for path in server.requests) == 4
        assert not list((tmp_path / "run/cache/shards").iterdir())
    finally:
        shutil.rmtree(replaced)


@pytest.mark.slow
def test_files_beyond_what_one_system_call_reads(tmp_path: Path) -> None:
    size = 2**31 + 100
    with (tmp_path / "long").open("wb") as file:
        file.truncate(size)
    assert len(storage.read(tmp_path / "long", 10, size - 20)) == size - 20


def test_what_is_far_away_is_fetched_together(demo: Path, server: Server, tmp_path: Path) -> None:
    clips = clips_of(config_of(demo, tmp_path, f"{server.address}/shards"))
    clips.store.read(clips.videos.clips[0].path)  # the server is asked whether it sends parts
    before = len(server.requests)
    samples = clips.__getitems__([(0, index, None) for index in (3, 1, 15)])
    assert [sample.number for sample in samples] == [3, 1, 15] and not any(sample.errors for sample in samples)
    assert len(server.requests) == before + 3  # one range a clip, its packet index included


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_reading_processes_and_servers_change_nothing(
    demo: Path, server: Server, tmp_path: Path, start_method: str
) -> None:
    train({"mv": config_of(demo, tmp_path / "files")})
    data = {"workers": 4, "start_method": start_method}
    for name, shards in (("local", str(demo / "shards")), ("http", f"{server.address}/shards")):
        train({"mv": config_of(demo, tmp_path / name, shards, data=data)})
        assert same(outcome(tmp_path / "files"), outcome(tmp_path / name))


@pytest.mark.slow
def test_several_processes_killed_in_the_middle_and_resumed(demo: Path, server: Server, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import os, signal, sys\n"
        "import coviar_mocrop.training.trainer as trainer\n"
        "from coviar_mocrop.config import load_configs\n"
        "step, calls = trainer.train_step, []\n"
        "def kill(*arguments):\n"
        "    calls.append(1)\n"
        "    if len(calls) == int(sys.argv[2]): os.kill(os.getpid(), signal.SIGKILL)\n"
        "    step(*arguments)\n"
        "trainer.train_step = kill\n"
        "trainer.train(load_configs(sys.argv[1], output=sys.argv[3]), resume=True)\n"
    )

    def run(name: str, shards: str | None, kill_at: int) -> int:
        config = config_of(demo, tmp_path / name, shards, data={"workers": 2}, train={"save_minutes": 0})
        path = tmp_path / f"{name}.yaml"
        path.write_text(config.model_dump_json())
        return torchrun(2, script, path, kill_at, tmp_path / name).returncode

    assert run("files", None, 0) == 0
    assert run("shards", f"{server.address}/shards", 6) != 0
    assert run("shards", f"{server.address}/shards", 0) == 0
    assert same(outcome(tmp_path / "files"), outcome(tmp_path / "shards"))


@pytest.mark.slow
def test_an_object_store(demo: Path, tmp_path: Path) -> None:
    pytest.importorskip("s3fs", reason="needs s3fs, of the extra dev")
    moto = pytest.importorskip("moto.server", reason="needs moto[server], of the extra dev, which speaks S3")
    store = moto.ThreadedMotoServer("127.0.0.1", 0)
    store.start()
    host, port = store.get_host_and_port()
    named = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    with pytest.MonkeyPatch.context() as environment:
        for name, value in named.items():
            environment.setenv(name, value)
        files = fsspec.filesystem("s3")
        files.mkdir("bucket")
        files.put(str(demo / "shards"), "bucket/shards", recursive=True)
        train({"mv": config_of(demo, tmp_path / "files")})
        train({"mv": config_of(demo, tmp_path / "shards", "s3://bucket/shards", data={"workers": 2})})
        assert same(outcome(tmp_path / "files"), outcome(tmp_path / "shards"))
        with pytest.raises(DataError, match=r"s3://bucket/none/shards\.json: no such file"):
            clips_of(config_of(demo, tmp_path, "s3://bucket/none"))
    store.stop()


# -- what is wrong ---------------------------------------------------------------------------------------


def broken(shards: Path, how: str) -> None:
    first = shards / "train-000000.tar"
    index = first.with_suffix(".npz")
    if how == "cut short":
        first.write_bytes(first.read_bytes()[:3000])
    elif how == "missing":
        first.unlink()
    elif how == "no index":
        index.unlink()
    elif how == "damaged index":
        index.write_bytes(index.read_bytes()[:400])
    elif how == "other version":
        about, names, rows = (np.load(index)[name] for name in ("about", "names", "rows"))
        np.savez(index, about=str(about).replace('"format": 1', '"format": 2'), names=names, rows=rows)
    elif how == "past the end":
        about, names, rows = (np.load(index)[name] for name in ("about", "names", "rows"))
        rows["offset"][2] = 2**62
        np.savez(index, about=about, names=names, rows=rows)


NOT_WHOLE = {
    "cut short": r"train-000000\.tar: has 3000 bytes instead of \d+; it was cut short",
    "missing": r"train-000000\.tar: no such shard; copy it again",
    "no index": r"train-000000\.tar: has no index beside it",
    "damaged index": r"train-000000\.npz: is not the index of a shard, or is damaged",
    "other version": r"train-000000\.npz: is of version 2, this program reads 1",
    "past the end": r"train-000000\.npz: is damaged; copy it again",
}


@pytest.mark.parametrize("how", NOT_WHOLE)
def test_a_shard_that_is_not_whole(
    demo: Path, shards: Path, tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    broken(shards, how)
    with pytest.raises(DataError, match=NOT_WHOLE[how] + r".*--set data\.on_error=skip"):
        clips_of(config_of(demo, tmp_path, str(shards)))
    clips = clips_of(config_of(demo, tmp_path / "run", str(shards), data={"on_error": "skip"}, input={"segments": 2}))
    assert re.search(NOT_WHOLE[how], caplog.text) and "1 of 6 shards are left out" in caplog.text
    samples = clips.__getitems__([(0, index, None) for index in range(16)])
    assert sum(bool(sample.errors) for sample in samples) == 5


@pytest.mark.parametrize("how", ["cut short", *(pytest.param(how, marks=pytest.mark.slow) for how in [*NOT_WHOLE][1:])])
def test_training_without_a_shard_that_is_not_whole(
    demo: Path, shards: Path, tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    broken(shards, how)
    train({"mv": config_of(demo, tmp_path, str(shards), data={"on_error": "skip"}, input={"segments": 2})})
    assert "5 of 16 training clips were skipped" in caplog.text


def test_other_bytes_than_were_packed(demo: Path, shards: Path, tmp_path: Path) -> None:
    path = shards / "train-000001.tar"
    index = unpack_index(path.with_suffix(".npz").read_bytes(), "x")
    data = bytearray(path.read_bytes())
    data[index.rows["offset"][3] + 100] ^= 1
    path.write_bytes(data)
    clips = clips_of(config_of(demo, tmp_path, str(shards)))
    name = index.names[3].decode()
    with pytest.raises(VideoError, match=rf"^{name}: .*train-000001\.tar holds other bytes than were packed"):
        clips.store.open(name)
    assert clips.store.read(index.names[2].decode())


def test_a_damaged_packet_index_is_not_needed(demo: Path, shards: Path, tmp_path: Path) -> None:
    path = shards / "train-000001.tar"
    index = unpack_index(path.with_suffix(".npz").read_bytes(), "x")
    data = bytearray(path.read_bytes())
    for start, size in zip(index.rows["index_offset"], index.rows["index_size"], strict=True):
        data[start : start + size] = bytes(size)
    path.write_bytes(data)
    expected, clips = clips_of(config_of(demo, tmp_path)), clips_of(config_of(demo, tmp_path, str(shards)))
    for number in range(16):
        wanted = pixels(expected, number)
        assert all(np.array_equal(value, wanted[name]) for name, value in pixels(clips, number).items())


def test_names_that_lead_elsewhere_are_names_only(demo: Path, shards: Path, tmp_path: Path) -> None:
    """What a tar file calls its members is never looked at; a list of shards may not lead out of its folder."""
    path = shards / "train-000000.tar"
    data = path.read_bytes()
    hostile = data.replace(b"000000", b"../../")
    assert hostile != data and len(hostile) == len(data)
    path.write_bytes(hostile)
    clips = clips_of(config_of(demo, tmp_path, str(shards)))
    assert all(not sample.errors for sample in clips.__getitems__([(0, index, None) for index in range(16)]))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["shards"]
    for names in (["../x.tar"], ["/etc/x.tar"], [], [3], "x.tar", ["x.zip"], None):
        (shards / "shards.json").write_text(json.dumps({"shards": names}))
        with pytest.raises(DataError, match=r"shards\.json: is damaged"):
            find_shards(str(shards))


def test_a_server_that_does_not_answer_is_no_reason_to_leave_out_clips(
    demo: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_WAIT", 0)
    clips = clips_of(config_of(demo, tmp_path, f"{server.address}/shards", data={"on_error": "skip"}))
    clips.store.read(clips.videos.clips[0].path)
    server.shutdown()
    server.server_close()
    (sample,) = clips.__getitems__([(0, 1, None)])
    with pytest.raises(storage.Unreachable, match="cannot be read"):
        SkipLog(clips.videos, "skip").add({1: next(iter(sample.errors.values()))})


def test_passwords_are_not_kept(demo: Path, tmp_path: Path) -> None:
    for secret in ("me:secret@host/a.tar", "host/a.tar?sig=secret"):
        with pytest.raises(DataError, match=r"^http://.*\*\*\*.*: holds a password") as caught:
            clips_of(config_of(demo, tmp_path, f"http://{secret}"))
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("box", [(0, 0, 5, 1), (np.nan, 0, 1, 1), (0, 0, np.inf, 1), (-0.4, 0, 1, 1), (1, 0, 0, 1)])
def test_boxes_outside_the_picture_are_damage(shards: Path, box: tuple[float, ...]) -> None:
    index = unpack_index((shards / "train-000000.npz").read_bytes(), "x")
    rows = index.rows.copy()
    rows["box"][1] = box
    with pytest.raises(DataError, match="is damaged"):
        unpack_index(index._replace(rows=rows).pack(), "x")
    rows["box"][1] = np.nan
    assert np.isnan(unpack_index(index._replace(rows=rows).pack(), "x").rows["box"][1]).all()


def test_two_videos_of_one_name(demo: Path, shards: Path, tmp_path: Path) -> None:
    again = [str(shards / "train-000000.tar"), str(shards / "copy.tar")]
    for suffix in (".tar", ".npz"):
        shutil.copy(shards / f"train-000000{suffix}", shards / f"copy{suffix}")
    clips_of(config_of(demo, tmp_path, (str(shards), *again)))  # the same twice does no harm
    about, names, rows = (np.load(shards / "copy.npz")[name] for name in ("about", "names", "rows"))
    rows["checksum"][0] += 1
    np.savez(shards / "copy.npz", about=about, names=names, rows=rows)
    with pytest.raises(DataError, match=r"train-000000\.tar and .*copy\.tar hold different videos of this name"):
        clips_of(config_of(demo, tmp_path, (str(shards), *again)))


def test_clips_that_are_in_no_shard(demo: Path, tmp_path: Path) -> None:
    only = str(demo / "shards/test-{000000..000001}.tar")
    with pytest.raises(DataError, match=r"and 15 more: in none of 2 shards .*data\.shards names those of all lists"):
        clips_of(config_of(demo, tmp_path, only))
    clips = clips_of(config_of(demo, tmp_path, only, data={"on_error": "skip"}))
    assert "is in none of 2 shards" in str(next(iter(clips[(0, 0, None)].errors.values())))


@pytest.mark.parametrize(
    ("shards", "said"),
    [
        ("nothing", r"no such file; check the path \(data\.shards names \.tar files"),
        ("a-{9..1}.tar", r"\{9\.\.1\} does not count up"),
        ("a-{0..9999999}.tar", "does not count up, or too far"),
        ("a-{0..99999}{0..99999}.tar", "stands for 10000000000 names"),
        ("ftpx://host/a.tar", "ftpx"),
    ],
)
def test_wrong_settings_of_shards(demo: Path, tmp_path: Path, shards: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        clips_of(config_of(demo, tmp_path, shards))


# -- names -----------------------------------------------------------------------------------------------


@given(st.integers(0, 50), st.integers(0, 30), st.lists(st.text("ab/-", max_size=3), min_size=2, max_size=4))
def test_patterns_stand_for_their_names(first: int, more: int, words: list[str]) -> None:
    pattern = f"x/{{{first:03d}..{first + more:03d}}}-{{{','.join(words)}}}.tar"
    expected = [f"x/{number:03d}-{word}.tar" for number in range(first, first + more + 1) for word in words]
    assert storage.expand(pattern) == expected
    assert storage.expand("plain.tar") == ["plain.tar"]


def test_files_beside_one_another() -> None:
    assert storage.beside("s3://bucket/a/b.tar", "c.npz") == "s3://bucket/a/c.npz"
    assert storage.beside("a/b.tar", "c.npz") == "a/c.npz"
    assert storage.beside("b.tar", "c.npz") == "c.npz"
