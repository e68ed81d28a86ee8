"""Turn motion vectors into a density grid: merge, subtract camera motion, denoise, sample, clean up."""

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
"""Default gate: a window with less motion (:func:`motion_level`) is idle. docs/watch.md says what that misses."""
AT_ONCE = 1 << 21
"""Number of motion vectors that are processed together: 80 MB, 20 s of 720p, or two minutes of 340 x 256."""
_GOLDEN = (5**0.5 - 1) / 2
_QUARTERS = ((-0.25, -0.25), (-0.25, 0.25), (0.25, -0.25), (0.25, 0.25))
_STRONGEST = 0.1
"""``saturation`` is relative to the mean of the strongest cells; this is their share of all cells."""
_LEVEL = MoCropSettings(weight="area_speed", max_vectors=8192)
_MOVING = 0.01
"""The level of motion is the mean of the strongest cells; this is their share of all cells."""
_TICKER_SPEED = 0.5
_TICKER_SPREAD = 0.5
_TICKER_SLOPE = 0.25
_TICKER_FILLED = 0.3
_TICKER_WIDTH = 0.4
_TICKER_HEIGHT = 0.25
"""Limits for news tickers.

The blocks of a cell move like a ticker if their mean sideways motion is above SPEED (pixels per frame), its standard
deviation is below SPREAD times that, the mean motion up or down is below SLOPE times that, and moving blocks fill the
cell for at least the share FILLED of the time. A row of cells is a ticker if at least the share WIDTH of its cells move
like one. If more than the share HEIGHT of the rows are tickers, none is.
"""


@dataclass
class _Blocks:
    """Moving blocks of all frames.

    Attributes:
        frame: number of the frame, int64 [N], ascending.
        x, y: centres, float32 [N], pixels.
        width, height: float32 [N], pixels.
        motion_x, motion_y: relative to the scene, float32 [N], pixels.
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
    """How much moves in each cell of the grid, added up over the frames of a clip of any length.

    Frames are processed in parts of about ``AT_ONCE`` vectors, so memory does not grow with the length of the clip.
    ``max_vectors``, ``keep_strongest`` and ``sample_share`` apply to each part. A clip of some seconds is one part.

    Attributes:
        frame_size: (height, width), pixels.
        settings: see :class:`MoCropSettings`.
    """

    def __init__(self, frame_size: tuple[int, int], settings: MoCropSettings) -> None:
        """Start without frames.

        Args:
            frame_size: (height, width), pixels.
            settings: see :class:`MoCropSettings`.
        """
        self.frame_size, self.settings = frame_size, settings
        self._waiting: list[NDArray[np.void]] = []
        self._vectors = 0
        self._grid = np.zeros((settings.rows, settings.columns))
        self._strongest = 0.0  # magnitude that importance is relative to
        self._share = 0.0  # share of the first part's vectors that was taken; other parts are scaled to it
        self._tickers = _Tickers(settings)
        self._generator = np.random.default_rng(settings.seed)

    def add(self, vectors: NDArray[np.void]) -> None:
        """Add the motion vectors (``MOTION_VECTOR_DTYPE`` [N]) of the next frame."""
        self._waiting.append(vectors)
        self._vectors += len(vectors)
        if self._vectors >= AT_ONCE:
            self._catch_up()

    def grid(self) -> NDArray[np.float64]:
        """The density of the frames added so far: float64 [rows, columns], >= 0; all zero without usable motion."""
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
            # relative to the largest magnitude, so that the power does not overflow
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
    """Measure how much moves, relative to the scene, in the part of the frame that moves most.

    It is the mean density of the strongest hundredth of the cells, divided by the density that they would have if all
    of their area moved fast in every frame. So it does not depend on the number of frames. A small moving object is
    enough to raise it. Noise, which is everywhere and has all directions, adds little.

    Args:
        frames: one array of motion vectors (``MOTION_VECTOR_DTYPE``) per frame.
        frame_size: (height, width), pixels.

    Returns:
        A number in [0, 1]; 0 if nothing moves.
    """
    blocks, _, share = _moving_blocks(frames, frame_size, _LEVEL)
    if not len(blocks.x):
        return 0.0
    grid = _smoothed(_to_grid(blocks, _weights(blocks, frame_size, _LEVEL), frame_size, _LEVEL), _LEVEL)
    strongest = np.sort(grid, axis=None)[-max(round(grid.size * _MOVING), 1) :].mean()
    return min(float(strongest) * grid.size / (frame_size[0] * frame_size[1] * len(frames) * share), 1.0)


def centre_prior(shape: tuple[int, ...], strength: float) -> NDArray[np.float64]:
    """A Gaussian of the distance from the middle of the grid: float64 [rows, columns].

    It is 1 in the middle and exp(-strength / 2) at the middle of each edge.
    """
    y, x = (((np.arange(cells) + 0.5) / cells * 2 - 1) ** 2 for cells in shape)
    weights: NDArray[np.float64] = np.exp(-0.5 * strength * (y[:, None] + x))
    return weights


def _moving_blocks(
    frames: Sequence[NDArray[np.void]], frame_size: tuple[int, int], settings: MoCropSettings
) -> tuple[_Blocks, int, float]:
    """Find the blocks that move, relative to the scene, by more than the static threshold.

    Returns:
        The moving blocks, the number of usable blocks, and the share of all vectors that was examined.
    """
    height, width = frame_size
    vectors, number, share = _gather(frames, settings.max_vectors)
    if not len(vectors):
        nothing = np.empty(0, np.float32)
        return _Blocks(np.empty(0, np.int64), *[nothing] * 7), 0, share
    x, y, block_w, block_h = (vectors[name].astype(np.float32) for name in ("dst_x", "dst_y", "w", "h"))
    future = vectors["source"] > 0
    # The exact sub-pixel vector is used, because src - dst is rounded to whole pixels. A vector to a future frame has
    # the opposite sign.
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
    """Join the vectors of all frames.

    If there are more than ``most``, this many are taken, evenly spaced. Their positions are jittered by the golden
    ratio, so that no row or column of blocks is preferred. The same vectors give the same choice every time.

    Returns:
        The vectors, the number of the frame of each, and the share of the vectors that was taken.
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
    else:  # each quarter of a block is added to the cell of its centre
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
    """Finds rows of cells with a news ticker: sideways, steady motion over much of the width, all the time.

    Attributes:
        frames: number of frames, multiplied by the share of their vectors that was taken.
    """

    def __init__(self, settings: MoCropSettings) -> None:
        self._settings = settings
        self.frames = 0.0
        # for each cell: the moving area, and its sideways, squared sideways and vertical motion, weighted by area
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
        # blocks across the edge of a ticker hold something else too: they move sideways, but not steadily
        rows[1:] |= beside[1:] & text[:-1]
        rows[:-1] |= beside[:-1] & text[1:]
        return rows if rows.sum() <= _TICKER_HEIGHT * self._settings.rows else np.zeros_like(rows)


def _smoothed(grid: NDArray[np.float64], settings: MoCropSettings) -> NDArray[np.float64]:
    for _ in range(settings.smoothing):
        grid = _smooth(_smooth(grid).T).T
    return grid


def _smooth(grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Apply a 1-2-1 filter down the columns. Beyond the edges, the outermost row is repeated."""
    padded = np.concatenate([grid[:1], grid, grid[-1:]])
    return (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
