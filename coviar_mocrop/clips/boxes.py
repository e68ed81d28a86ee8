"""One MoCrop box per clip, computed once and kept on disk, shared by all streams."""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from coviar_mocrop.bitstream import open_video
from coviar_mocrop.bitstream.video import Backend
from coviar_mocrop.datasets.lists import Clip
from coviar_mocrop.errors import VideoError
from coviar_mocrop.files import DataRoot, write_text
from coviar_mocrop.mocrop import CropBox, MoCropSettings, estimate_box, frames_to_read

_FORMAT = 3
_SAVE_EVERY = 2000
_SAVE_SECONDS = 60.0


class Entry(NamedTuple):
    """A box, and the state of the file that it was computed from."""

    size: int
    changed: int
    """Time of the last change, nanoseconds."""
    box: CropBox


class BoxCache:
    """Boxes by file (path, size, time of change) and settings, in one folder per pair of data root and settings.

    What is kept goes to a file of its own that is never changed again, so any number of processes, on any number
    of machines, can keep boxes at once without a lock, and none is lost. A file that has changed since is computed
    anew; of two boxes of one clip the one kept later counts. A cache file that is damaged counts as empty.
    """

    def __init__(
        self, folder: str | os.PathLike[str], root: str, settings: MoCropSettings, *, follow_links: bool = False
    ) -> None:
        """Open the cache of a data root and settings; nothing is written before there is a box to keep."""
        key = json.dumps([_FORMAT, os.path.realpath(root), settings.model_dump(mode="json")], sort_keys=True)
        self.root = DataRoot(root, follow_links=follow_links)
        self.settings = settings
        self.folder = Path(folder, "boxes", hashlib.blake2b(key.encode(), digest_size=8).hexdigest())
        self.added = 0
        """Boxes kept by this object."""
        self._entries: dict[str, list[float]] = {}
        self._seen: set[str] = set()
        self.refresh()

    def get(self, name: str) -> CropBox | None:
        """The box of a clip, None if it has not been computed or the file has changed since.

        Raises:
            DataError: the entry leaves the data root.
        """
        _, facts = self.root.find(name)
        entry = self._entries.get(name)
        if entry is None or facts is None or entry[:2] != [facts.st_size, facts.st_mtime_ns]:
            return None
        return CropBox(*entry[2:])

    def put(self, entries: Mapping[str, Entry]) -> None:
        """Keep boxes."""
        clips = {name: [entry.size, entry.changed, *entry.box] for name, entry in entries.items()}
        self._entries.update(clips)
        # the names sort by time, whoever wrote them
        path = self.folder / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.json"
        settings = self.settings.model_dump(mode="json")
        # not indented: that would take Python's slow encoder
        write_text(path, json.dumps({"root": self.root.path, "settings": settings, "clips": clips}) + "\n")
        self._seen.add(path.name)
        self.added += len(clips)

    def refresh(self) -> None:
        """Take up what other processes have kept meanwhile."""
        for path in sorted(self.folder.glob("[0-9]*.json")):  # not what is still being written
            if path.name not in self._seen:
                self._seen.add(path.name)
                self._entries.update(_read(path))


def _read(path: Path) -> dict[str, list[float]]:
    try:
        clips = json.loads(path.read_text(encoding="utf-8"))["clips"]
        return {name: entry for name, entry in clips.items() if len(entry) == 6}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def box_of_file(
    path: str | os.PathLike[str],
    settings: MoCropSettings,
    backend: Backend = "auto",
    index_cache: str | os.PathLike[str] | None = None,
) -> CropBox:
    """The box of one video, from all its vectors, or from those of a few frames where ``settings`` are sparse.

    Raises:
        VideoError: the video cannot be read, or has no motion vectors.
    """
    with open_video(path, backend, index_cache=index_cache) as video:
        vectors = video.vectors(frames_to_read(video.gops, settings))
        return estimate_box(vectors, (video.info.height, video.info.width), settings)


def boxes_of_list(
    clips: Iterable[Clip],
    cache: BoxCache,
    *,
    backend: Backend = "auto",
    index_cache: str | os.PathLike[str] | None = None,
    workers: int = 2,
    progress: bool = True,
    share: tuple[int, int] = (0, 1),
) -> tuple[dict[str, CropBox], dict[str, VideoError]]:
    """The boxes of many clips, from the cache where they are known; interrupted work is kept.

    Args:
        clips: may name a file more than once.
        cache: where boxes are looked up and kept.
        backend: see :func:`~coviar_mocrop.bitstream.open_video`.
        index_cache: see there.
        workers: threads; decoding lets go of Python's lock.
        progress: show a bar.
        share: (k, n): only every n-th file, from the k-th on. The shares of 0 to n - 1 are the whole.

    Returns:
        Boxes by path, and the errors of those that have none.

    Raises:
        DataError: an entry leaves the data root.
    """
    first, step = share
    names = list(dict.fromkeys(clip.path for clip in clips))[first::step]
    found = {name: cache.get(name) for name in names}
    missing = [name for name, box in found.items() if box is None]
    boxes = {name: box for name, box in found.items() if box is not None}
    errors: dict[str, VideoError] = {}
    if not missing:
        return boxes, errors

    def compute(name: str) -> Entry:
        path, facts = cache.root.find(name)  # before reading: what changes meanwhile must count as changed
        box = box_of_file(path, cache.settings, backend, index_cache)
        return Entry(facts.st_size if facts else -1, facts.st_mtime_ns if facts else -1, box)

    fresh: dict[str, Entry] = {}
    saved = time.monotonic()
    pool = ThreadPoolExecutor(max(workers, 1))
    try:
        jobs = {pool.submit(compute, name): name for name in missing}
        for done in tqdm(as_completed(jobs), "crop boxes", len(jobs), unit="clip", disable=not progress):
            name = jobs[done]
            try:
                fresh[name] = done.result()
                boxes[name] = fresh[name].box
            except VideoError as error:
                errors[name] = error
            if len(fresh) >= _SAVE_EVERY or (fresh and time.monotonic() - saved > _SAVE_SECONDS):
                cache.put(fresh)
                fresh, saved = {}, time.monotonic()
    finally:
        pool.shutdown(cancel_futures=True)  # whoever stops it does not want to wait for what is queued
        if fresh:
            cache.put(fresh)
    # in the list's order, whatever came first
    return {name: boxes[name] for name in names if name in boxes}, {
        name: errors[name] for name in names if name in errors
    }
