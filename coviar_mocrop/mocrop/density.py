"""From motion vectors to a density grid: merge, take the camera out, denoise, sample, clean up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coviar_mocrop.mocrop.camera import Floats, remove_camera
from coviar_mocrop.mocrop.coherence import coherence
from coviar_mocrop.mocrop.settings import MoCropSettings

GATE = 0.01
"""A window of less motion (:func:`motion_level`) is idle by default; docs/watch.md says what that misses."""
AT_ONCE = 1 << 21
"""Motion vectors that are worked on together: 80 megabytes, 20 s of 720p, or two minutes of 340 x 256."""
_GOLDEN = (5**0.5 - 1) / 2
_QUARTERS = ((-0.25, -0.25), (-0.25, 0.25), (0.25, -0.25), (0.25, 0.25))
_STRONGEST = 0.1
"""``saturation`` refers to the mean of this share of the cells, the strongest ones."""
_LEVEL = MoCropSettings(weight="area_speed", max_vectors=8192)
_MOVING = 0.01
"""The level of motion is that of this share of the cells."""
_TICKER_SPEED = 0.5
_TICKER_SPREAD = 0.5
_TICKER_SLOPE = 0.25
_TICKER_FILLED = 0.3
_TICKER_WIDTH = 0.4
_TICKER_HEIGHT = 0.25
"""A cell runs like a ticker if its blocks move by more than so many pixels, spread by less than this share of it,
with no more than this share of it up or down, and fill it this much of the time; a row of cells is one if so many
of its cells do, and believed if no more than so many rows are."""


@dataclass
class _Blocks:
    """Moving blocks of all frames.

    Attributes:
        frame: number of the frame, int64 [N], ascending.
        x, y: centres, float32 [N], pixels.
        width, height: float32 [N], pixels.
        motion_x, motion_y: against the scene, float32 [N], pixels.
        magnitude: float32 [N], pixels.
    """

    frame: NDArray[np.int64]
    x: Floats
    y: Floats
    width: Floats
    height: Floats
    motion_x: Floats
    motion_y: Floats
    magnitude: Floats

    def only(self, kept: NDArray[np.int64]) -> _Blocks:
        return _Blocks(*(getattr(self, name)[kept] for name in self.__dataclass_fields__))

    @property
    def area(self) -> Floats:
        return self.width * self.height


class MotionDensity:
    """How much moves in each cell of the grid, added up over the frames of a clip, however long.

    Frames are worked on together, ``AT_ONCE`` vectors at a time; memory does not grow beyond that. Of each such part
    the settings take their share: ``max_vectors``, ``keep_strongest`` and ``sample_share`` hold for it. A clip of some
    seconds is one part.

    Attributes:
        frame_size: (height, width), pixels.
        settings: see :class:`MoCropSettings`.
    """

    def __init__(self, frame_size: tuple[int, int], settings: MoCropSettings) -> None:
        """No frame yet.

        Args:
            frame_size: (height, width), pixels.
            settings: see :class:`MoCropSettings`.
        """
        self.frame_size, self.settings = frame_size, settings
        self._waiting: list[NDArray[np.void]] = []
        self._vectors = 0
        self._grid = np.zeros((settings.rows, settings.columns))
        self._strongest = 0.0  # magnitude that importance refers to
        self._share = 0.0  # of its vectors that were taken of the first part, which the others are scaled to
        self._tickers = _Tickers(settings)
        self._generator = np.random.default_rng(settings.seed)

    def add(self, vectors: NDArray[np.void]) -> None:
        """Take the motion vectors (``MOTION_VECTOR_DTYPE``) of the next frame."""
        self._waiting.append(vectors)
        self._vectors += len(vectors)
        if self._vectors >= AT_ONCE:
            self._catch_up()

    def grid(self) -> NDArray[np.float64]:
        """The density so far: float64 [rows, columns], >= 0; all zero where nothing usable moves."""
        self._catch_up()
        settings, grid = self.settings, self._grid.copy()
        if settings.drop_tickers:
            grid[self._tickers.rows(self.frame_size)] = 0.0
        grid = _smoothed(grid, settings)
        if settings.saturation is not None:
            strongest_cells = np.sort(grid, axis=None)[-max(round(grid.size * _STRONGEST), 1) :]
            grid = np.minimum(grid, settings.saturation * strongest_cells.mean())
        return grid

    def _catch_up(self) -> None:
        settings, size, frames = self.settings, self.frame_size, self._waiting
        self._waiting, self._vectors = [], 0
        blocks, usable, share = _moving_blocks(frames, size, settings)
        self._tickers.frames += share * len(frames)
        if settings.keep_strongest < 1 and len(blocks.x):
            number = max(round(usable * settings.keep_strongest), 1)
            strongest = np.argsort(-blocks.magnitude, kind="stable")[:number]
            blocks = blocks.only(np.sort(strongest))
        if not len(blocks.x):
            return
        weight = _weights(blocks, size, settings)
        if settings.importance_power:
            # scaled by the largest magnitude: a power of large ones must not overflow
            largest = max(self._strongest, float(blocks.magnitude.max()))
            weight = weight * (blocks.magnitude.astype(np.float64) / largest) ** settings.importance_power
            self._grid *= (self._strongest / largest) ** settings.importance_power
            self._strongest = largest
        if settings.sampling == "monte_carlo":
            drawn = max(round(len(weight) * settings.sample_share), 1)
            weight = self._generator.multinomial(drawn, weight / weight.sum()).astype(np.float64)
        self._share = self._share or share
        self._grid += _to_grid(blocks, weight, size, settings) * (self._share / share)
        if settings.drop_tickers:
            self._tickers.add(blocks, size)


def motion_level(frames: Sequence[NDArray[np.void]], frame_size: tuple[int, int]) -> float:
    """How much moves against the scene where most moves, in [0, 1], whatever the number of frames.

    It is the mean density of the strongest hundredth of the cells, as a share of what it would be if all of them moved
    in every frame. A small thing that moves is seen by it; noise, which is everywhere and goes every way, adds little.

    Args:
        frames: one array of motion vectors (``MOTION_VECTOR_DTYPE``) per frame.
        frame_size: (height, width), pixels.
    """
    blocks, _, share = _moving_blocks(frames, frame_size, _LEVEL)
    if not len(blocks.x):
        return 0.0
    grid = _smoothed(_to_grid(blocks, _weights(blocks, frame_size, _LEVEL), frame_size, _LEVEL), _LEVEL)
    strongest = np.sort(grid, axis=None)[-max(round(grid.size * _MOVING), 1) :].mean()
    return min(float(strongest) * grid.size / (frame_size[0] * frame_size[1] * len(frames) * share), 1.0)


def centre_prior(shape: tuple[int, ...], strength: float) -> NDArray[np.float64]:
    """float64 [rows, columns]: a Gaussian of the distance from the middle, 1 there; ``strength`` 0: 1 everywhere.

    At the edges' middles it is exp(-strength / 2).
    """
    y, x = (((np.arange(cells) + 0.5) / cells * 2 - 1) ** 2 for cells in shape)
    weights: NDArray[np.float64] = np.exp(-0.5 * strength * (y[:, None] + x))
    return weights


def _moving_blocks(
    frames: Sequence[NDArray[np.void]], frame_size: tuple[int, int], settings: MoCropSettings
) -> tuple[_Blocks, int, float]:
    """Blocks that move against the scene by more than the static threshold.

    Also how many usable ones there are in all, and the share of the vectors that was looked at.
    """
    height, width = frame_size
    vectors, number, share = _gather(frames, settings.max_vectors)
    if not len(vectors):
        nothing = np.empty(0, np.float32)
        return _Blocks(np.empty(0, np.int64), *[nothing] * 7), 0, share
    x, y, block_w, block_h = (vectors[name].astype(np.float32) for name in ("dst_x", "dst_y", "w", "h"))
    future = vectors["source"] > 0
    # the exact sub-pixel vector; src - dst is rounded to whole pixels. One into the future tells of the
    # opposite motion.
    scale = vectors["motion_scale"].astype(np.float32)
    step = np.where(future, np.float32(-1), np.float32(1)) / np.maximum(scale, np.float32(1))
    motion_x = vectors["motion_x"].astype(np.float32) * step
    motion_y = vectors["motion_y"].astype(np.float32) * step
    area = block_w * block_h * np.float32(1 / share)
    longest = 4 * max(height, width)  # longer is damage, not motion
    usable = (scale > 0) & (area > 0) & (x >= 0) & (y >= 0) & (x <= width) & (y <= height)
    usable &= (np.abs(motion_x) <= longest) & (np.abs(motion_y) <= longest)
    group = 2 * number + future
    if not usable.all():
        x, y, block_w, block_h, motion_x, motion_y, area = (
            values[usable] for values in (x, y, block_w, block_h, motion_x, motion_y, area)
        )
        group = group[usable]
    motion_x, motion_y = remove_camera(
        settings.camera,
        (x, y),
        (motion_x, motion_y),
        area,
        group,
        2 * len(frames),
        frame_size,
    )
    magnitude = np.hypot(motion_x, motion_y)
    blocks = _Blocks(group // 2, x, y, block_w, block_h, motion_x, motion_y, magnitude)
    return blocks.only(np.flatnonzero(magnitude > settings.static_threshold)), len(magnitude), share


def _gather(frames: Sequence[NDArray[np.void]], most: int | None) -> tuple[Any, NDArray[np.int64], float]:
    """Vectors of all frames in one array, the number of the frame of each, and the share that was taken.

    Of more than ``most`` vectors, so many are taken, evenly over all of them; the places are jittered by the golden
    ratio, so that no row or column of blocks is preferred. The same vectors give the same choice every time.
    """
    lengths = np.array([len(rows) for rows in frames], dtype=np.int64)
    total = int(lengths.sum())
    if not total:
        return np.empty(0), np.empty(0, np.int64), 1.0
    dtype = next(rows.dtype for rows in frames if len(rows))
    # as plain bytes: NumPy would compare and copy structured arrays field by field
    plain = [
        np.ascontiguousarray(rows.astype(dtype, copy=False) if len(rows) else np.empty(0, dtype)).view(
            f"V{dtype.itemsize}"
        )
        for rows in frames
    ]
    if most is None or total <= most:
        return np.concatenate(plain).view(dtype), np.repeat(np.arange(len(frames)), lengths), 1.0
    at = np.arange(most)
    chosen = ((at + (at * _GOLDEN) % 1) * (total / most)).astype(np.int64)
    ends = np.cumsum(lengths)
    number = np.searchsorted(ends, chosen, side="right")
    places = chosen - (ends - lengths)[number]
    cuts = np.searchsorted(number, np.arange(len(frames) + 1)).tolist()
    parts = [rows.take(places[cuts[at] : cuts[at + 1]]) for at, rows in enumerate(plain)]
    return np.concatenate(parts).view(dtype), number, most / total


def _weights(blocks: _Blocks, frame_size: tuple[int, int], settings: MoCropSettings) -> NDArray[np.float64]:
    magnitude = blocks.magnitude.astype(np.float64)
    weight = np.ones(len(magnitude))
    if settings.weight in ("magnitude", "area_magnitude"):
        weight = magnitude
    if settings.weight in ("speed", "area_speed"):
        square = magnitude**2
        weight = square / (square + (settings.half_speed * frame_size[0]) ** 2)
    if settings.weight in ("area", "area_magnitude", "area_speed"):
        weight = weight * blocks.area
    if settings.coherence:
        place, motion = (blocks.x, blocks.y), (blocks.motion_x, blocks.motion_y)
        weight = weight * coherence(blocks.frame, place, motion, blocks.area, frame_size) ** settings.coherence
    return weight


def _to_grid(
    blocks: _Blocks, weight: NDArray[np.float64], frame_size: tuple[int, int], settings: MoCropSettings
) -> NDArray[np.float64]:
    cells = settings.rows * settings.columns
    grid: Any
    if not settings.spread_blocks:
        grid = np.bincount(_cells(blocks.x, blocks.y, frame_size, settings), weight, cells)
    else:  # a block is as good as the four quarters of it
        grid = np.zeros(cells)
        for down, across in _QUARTERS:
            x, y = blocks.x + across * blocks.width, blocks.y + down * blocks.height
            grid += np.bincount(_cells(x, y, frame_size, settings), weight / 4, cells)
    shaped: NDArray[np.float64] = grid.reshape(settings.rows, settings.columns)
    return shaped


def _cells(x: Floats, y: Floats, frame_size: tuple[int, int], settings: MoCropSettings) -> NDArray[np.int64]:
    height, width = frame_size
    row = np.clip((y * (settings.rows / height)).astype(np.int64), 0, settings.rows - 1)
    column = np.clip((x * (settings.columns / width)).astype(np.int64), 0, settings.columns - 1)
    return row * settings.columns + column


class _Tickers:
    """Finds rows of cells in which text runs: sideways, steadily, over much of the width, all the time.

    Attributes:
        frames: number of frames, less those whose vectors were left out.
    """

    def __init__(self, settings: MoCropSettings) -> None:
        self._settings = settings
        self.frames = 0.0
        # of each cell: the moving area, and its sideways, squared sideways and upright motion
        self._filled, self._across, self._square, self._upright = np.zeros((4, settings.rows * settings.columns))

    def add(self, blocks: _Blocks, frame_size: tuple[int, int]) -> None:
        cell = _cells(blocks.x, blocks.y, frame_size, self._settings)
        area, cells = blocks.area, len(self._filled)
        self._filled += np.bincount(cell, area, cells)
        self._across += np.bincount(cell, area * blocks.motion_x, cells)
        self._square += np.bincount(cell, area * blocks.motion_x**2, cells)
        self._upright += np.bincount(cell, area * np.abs(blocks.motion_y), cells)

    def rows(self, frame_size: tuple[int, int]) -> NDArray[np.bool_]:
        shape = (self._settings.rows, self._settings.columns)
        known = np.maximum(self._filled, 1e-9)
        mean = self._across / known
        speed = np.abs(mean)
        full = self.frames * frame_size[0] * frame_size[1] / len(self._filled)
        sideways = (
            (speed > _TICKER_SPEED)
            & (self._upright / known < _TICKER_SLOPE * speed)
            & (self._filled > _TICKER_FILLED * full)
        )
        steady = np.maximum(self._square / known - mean**2, 0) < (_TICKER_SPREAD * speed) ** 2
        text, beside = (chosen.reshape(shape).mean(axis=1) >= _TICKER_WIDTH for chosen in (sideways & steady, sideways))
        rows: NDArray[np.bool_] = text.copy()
        # blocks that straddle its edge are half ticker, half whatever lies there: sideways, but not steady
        rows[1:] |= beside[1:] & text[:-1]
        rows[:-1] |= beside[:-1] & text[1:]
        return rows if rows.sum() <= _TICKER_HEIGHT * self._settings.rows else np.zeros_like(rows)


def _smoothed(grid: NDArray[np.float64], settings: MoCropSettings) -> NDArray[np.float64]:
    for _ in range(settings.smoothing):
        grid = _smooth(_smooth(grid).T).T
    return grid


def _smooth(grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """1-2-1 down the columns; at the edges the outermost row stands in for what is missing."""
    padded = np.concatenate([grid[:1], grid, grid[-1:]])
    return (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
