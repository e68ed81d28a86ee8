"""The demo data set: synthetic clips, encoded as H.264 and MPEG-4, whose classes need both I-frames and motion.

A class combines a static scene (a grainy wall with soft colour bands, in rows or columns) with the motion of a small
object (left-right, up-down, spin, pulse). Only I-frames show the scene. Its bands differ in colour but not in
brightness, which motion search uses, and they are too wide to be seen in the neighbourhood of the object. A single
I-frame does not show the motion, but accumulated motion and residuals do. The object, its colours, position, phase and
speed differ from clip to clip.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from coviar_mocrop.bitstream.transcode import Codec, encode
from coviar_mocrop.datasets.lists import Clip
from coviar_mocrop.datasets.preparing import Prepared
from coviar_mocrop.datasets.splits import Side, require_replaceable, write_splits
from coviar_mocrop.errors import DataError
from coviar_mocrop.files import write_json

SCENES = ("rows", "columns")
MOTIONS = ("left_right", "up_down", "spin", "pulse")
WIDTH, HEIGHT, FRAMES = 256, 192, 48
_FORMAT = 3


def make_demo(
    output: Path,
    lists: Path,
    *,
    train_clips: int = 192,
    test_clips: int = 96,
    val_clips: int = 0,
    seed: int = 0,
    workers: int = 2,
    progress: bool = True,
    overwrite: bool = False,
) -> Prepared:
    """Write the demo clips and their lists. Existing clips are kept if they were made with the same settings.

    Args:
        output: data root; clips are written to ``output/<class>/``.
        lists: folder for ``classes.txt`` and ``{train,val,test}_split1.txt``.
        train_clips: number of training clips. The 8 classes take turns, so a multiple of 8 gives equal numbers.
        test_clips: number of test clips.
        val_clips: number of validation clips. The training and test clips do not depend on it.
        seed: random seed of all clips.
        workers: number of encoding threads. Does not affect results.
        progress: show a progress bar.
        overwrite: whether clips and lists of another demo may be replaced.

    Raises:
        DataError: the folders hold other clips or lists, and ``overwrite`` is false.
    """
    classes = [f"{scene}_{motion}" for scene in SCENES for motion in MOTIONS]
    counts: dict[Side, int] = {"train": train_clips, "test": test_clips, "val": val_clips}  # numbered in this order
    split = {part: [_clip(part, number, classes) for number in range(count)] for part, count in counts.items() if count}
    if not overwrite:
        require_replaceable(lists, classes, [split])
    made = {"format": _FORMAT, "seed": seed, "train_clips": train_clips, "test_clips": test_clips}
    marker = output / "demo.json"
    before = _read_record(marker)
    others = [f"{name} {value}" for name, value in before.items() if name in made and value != made[name]]
    if others and before.get("format") == _FORMAT and not overwrite:
        raise DataError(
            f"{output}: holds the clips of another demo ({', '.join(others).replace('_', ' ')}), which runs may have "
            "used; give --overwrite to replace them, or another --output"
        )
    everything = [clip for part in split.values() for clip in part]
    if before != made or not all((output / clip.path).exists() for clip in everything):
        marker.unlink(missing_ok=True)  # until all clips are written, the folder may hold clips of two seeds

        def write(item: tuple[int, Clip]) -> None:
            number, clip = item
            frames = render(clip.class_name, np.random.default_rng([seed, number]))
            codec: Codec = "h264" if number // len(classes) % 2 == 0 else "mpeg4"
            encode(frames, output / clip.path, codec=codec, gop=12)

        with ThreadPoolExecutor(max(workers, 1)) as pool:
            done = pool.map(write, enumerate(everything))
            for _ in tqdm(done, "demo clips", len(everything), unit="clip", disable=not progress):
                pass
        write_json(marker, made)
    write_splits(lists, classes, [split])
    return Prepared(output, lists, tuple(classes), (split,), {})


def _read_record(marker: Path) -> dict[str, Any]:
    """The settings that a demo was made with; empty if they are unknown, so that its clips are made again."""
    try:
        record = json.loads(marker.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def render(class_name: str, generator: np.random.Generator) -> NDArray[np.uint8]:
    """Render the frames of one clip: uint8 [FRAMES, HEIGHT, WIDTH, 3] RGB.

    Args:
        class_name: ``<scene>_<motion>``.
        generator: draws everything that differs between the clips of a class.
    """
    scene, motion = class_name.split("_", 1)
    frames = np.repeat(_scene(scene, generator)[None], FRAMES, axis=0)
    texture = _texture(generator)
    radius = generator.uniform(20, 28)
    swing = generator.uniform(20, 32)
    reach = radius * 1.35 + swing + 2  # the same for all motions, so that the position does not reveal the class
    centre_x = generator.uniform(reach, WIDTH - reach)
    centre_y = generator.uniform(reach, HEIGHT - reach)
    period, phase = generator.uniform(20, 32), generator.uniform(0, 2 * np.pi)
    start_angle, direction = generator.uniform(0, 2 * np.pi), generator.choice([-1, 1])
    for t, frame in enumerate(frames):
        wave = np.sin(2 * np.pi * t / period + phase)
        x = centre_x + (swing * wave if motion == "left_right" else 0)
        y = centre_y + (swing * wave if motion == "up_down" else 0)
        angle = start_angle + (direction * 0.16 * t if motion == "spin" else 0)
        size = radius * (1 + 0.35 * wave if motion == "pulse" else 1)
        _paste(frame, texture, x, y, size, angle)
    return frames


def _clip(part: str, number: int, classes: list[str]) -> Clip:
    label = number % len(classes)
    return Clip(f"{classes[label]}/{part}_{number // len(classes):03d}.mp4", classes[label], label)


def _scene(name: str, generator: np.random.Generator) -> NDArray[np.uint8]:
    along = np.arange(HEIGHT)[:, None] if name == "rows" else np.arange(WIDTH)[None, :]
    wave = np.sin(2 * np.pi * (along / generator.uniform(80, 120) + generator.uniform()))
    grain = generator.normal(0, 1, (HEIGHT // 4, WIDTH // 4)).repeat(4, axis=0).repeat(4, axis=1)
    brightness = generator.uniform(90, 165) + 14 * grain
    hue = generator.uniform(0, 2 * np.pi)
    u, v = 45 * np.cos(hue), 45 * np.sin(hue)
    tint = np.array([1.402 * v, -0.344 * u - 0.714 * v, 1.772 * u])  # BT.601: colour without brightness
    wall = brightness[..., None] + np.broadcast_to(wave, (HEIGHT, WIDTH))[..., None] * tint
    return wall.clip(0, 255).astype(np.uint8)


def _texture(generator: np.random.Generator) -> NDArray[np.float64]:
    """A blotchy 64 x 64 pattern, which the encoder's motion search can match; float64 [64, 64, 3], 0 to 255."""
    coarse = generator.integers(0, 256, (9, 9, 3)).astype(np.float64)
    at = np.linspace(0, 7.999, 64)
    low, part = at.astype(int), (at % 1)
    rows = coarse[low] * (1 - part)[:, None, None] + coarse[low + 1] * part[:, None, None]
    return rows[:, low] * (1 - part)[None, :, None] + rows[:, low + 1] * part[None, :, None]


def _paste(
    frame: NDArray[np.uint8], texture: NDArray[np.float64], x: float, y: float, size: float, angle: float
) -> None:
    """Draw the object, a disc with a notch, into ``frame``: centre (x, y) and radius in pixels, angle in radians."""
    left, right = max(int(x - size) - 1, 0), min(int(x + size) + 2, WIDTH)
    top, bottom = max(int(y - size) - 1, 0), min(int(y + size) + 2, HEIGHT)
    rows, columns = np.mgrid[top:bottom, left:right]
    u, v = (columns - x) / size, (rows - y) / size
    u, v = np.cos(angle) * u + np.sin(angle) * v, -np.sin(angle) * u + np.cos(angle) * v
    inside = (u * u + v * v <= 1) & ~((u > 0.3) & (np.abs(v) < 0.25))
    column = ((u + 1) * 31.5).clip(0, 63).astype(int)
    row = ((v + 1) * 31.5).clip(0, 63).astype(int)
    region = frame[top:bottom, left:right]
    region[inside] = texture[row, column][inside].astype(np.uint8)
