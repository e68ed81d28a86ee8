"""One MoCrop box per clip, computed once and kept on disk, shared by all streams."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

from coviar_mocrop.bitstream import open_video
from coviar_mocrop.bitstream.video import Backend
from coviar_mocrop.data.lists import Clip
from coviar_mocrop.errors import VideoError
from coviar_mocrop.files import inside, write_json
from coviar_mocrop.mocrop import CropBox, MoCropSettings, estimate_box, frames_to_read

_FORMAT = 2
_SAVE_EVERY = 2000


class BoxCache:
    """Boxes by file identity (path, size, time of change) and settings; one JSON file per pair of both.

    A file that has changed since is computed anew. A cache file that is damaged counts as empty.
    """

    def __init__(self, folder: str | os.PathLike[str], root: str, settings: MoCropSettings) -> None:
        """Open the cache of a data root and settings; nothing is written before there is a box to keep."""
        key = json.dumps([_FORMAT, os.path.realpath(root), settings.model_dump(mode="json")], sort_keys=True)
        digest = hashlib.blake2b(key.encode(), digest_size=8).hexdigest()
        self.root = root
        self.settings = settings
        self.path = Path(folder) / "boxes" / f"{digest}.json"
        self._entries = self._load()

    def get(self, name: str) -> CropBox | None:
        """The box of a clip, None if it has not been computed or the file has changed since."""
        entry = self._entries.get(name)
        if entry is None or entry[:2] != list(_identity(inside(self.root, name))):
            return None
        return CropBox(*entry[2:])

    def put(self, boxes: Mapping[str, CropBox]) -> None:
        """Keep boxes; what other processes have kept meanwhile stays."""
        for name, box in boxes.items():
            self._entries[name] = [*_identity(inside(self.root, name)), *box]
        self._entries = {**self._load(), **self._entries}
        settings = self.settings.model_dump(mode="json")
        write_json(self.path, {"root": self.root, "settings": settings, "clips": self._entries})

    def _load(self) -> dict[str, list[float]]:
        try:
            clips = json.loads(self.path.read_text(encoding="utf-8"))["clips"]
            return {name: entry for name, entry in clips.items() if len(entry) == 6}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}


def box_of_file(path: str | os.PathLike[str], settings: MoCropSettings, backend: Backend = "auto") -> CropBox:
    """The box of one video, from all its vectors, or from those of a few frames where ``settings`` are sparse.

    Raises:
        VideoError: the video cannot be read, or has no motion vectors.
    """
    with open_video(path, backend) as video:
        vectors = video.vectors(frames_to_read(video.gops, settings))
        return estimate_box(vectors, (video.info.height, video.info.width), settings)


def boxes_of_list(
    clips: Iterable[Clip],
    cache: BoxCache,
    *,
    backend: Backend = "auto",
    workers: int = 2,
    progress: bool = True,
) -> tuple[dict[str, CropBox], dict[str, VideoError]]:
    """The boxes of many clips, from the cache where they are known; interrupted work is kept.

    Returns:
        Boxes by path, and the errors of those that have none.
    """
    names = list(dict.fromkeys(clip.path for clip in clips))
    boxes: dict[str, CropBox] = {}
    errors: dict[str, VideoError] = {}
    missing = []
    for name in names:
        try:
            known = cache.get(name)
        except OSError:
            known = None
        if known is None:
            missing.append(name)
        else:
            boxes[name] = known
    if not missing:
        return boxes, errors
    fresh: dict[str, CropBox] = {}
    pool = ThreadPoolExecutor(max(workers, 1))  # threads, because decoding lets go of Python's lock
    try:
        jobs = {pool.submit(box_of_file, inside(cache.root, name), cache.settings, backend): name for name in missing}
        for done in tqdm(as_completed(jobs), "crop boxes", len(jobs), unit="clip", disable=not progress):
            try:
                fresh[jobs[done]] = done.result()
            except VideoError as error:
                errors[jobs[done]] = error
            if len(fresh) >= _SAVE_EVERY:
                boxes.update(fresh)
                cache.put(fresh)
                fresh = {}
    finally:
        pool.shutdown(cancel_futures=True)  # whoever stops it does not want to wait for what is queued
        if fresh:
            cache.put(fresh)
    return {**boxes, **fresh}, errors


def _identity(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns
