"""A street in which somebody walks: the video of the figures, drawn here so that nobody's footage is needed."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

WIDTH, HEIGHT = 480, 272
_FINE = 3  # drawn so many times larger, then reduced: smooth edges
_HORIZON = 128
_STEP = 26.0
"""Frames of one walking cycle."""


def street(frames: int = 72, *, pan: float = 0.0, seed: int = 7) -> Iterator[NDArray[np.uint8]]:
    """The frames of the video: uint8 [HEIGHT, WIDTH, 3] RGB.

    Args:
        frames: number of frames.
        pan: pixels that the camera turns to the right per frame.
        seed: random seed of textures and sensor noise.
    """
    generator = np.random.default_rng(seed)
    background = _background(WIDTH + round(abs(pan) * frames) + 2, generator)
    for number in range(frames):
        left = pan * number
        view = background.transform(
            (WIDTH * _FINE, HEIGHT * _FINE), Image.Transform.AFFINE, (1, 0, left * _FINE, 0, 1, 0)
        )
        _walker(ImageDraw.Draw(view), 150 + 1.9 * number - left, 214.0, number)
        small = np.asarray(view.resize((WIDTH, HEIGHT), Image.Resampling.BOX), dtype=np.float64)
        yield (small + generator.normal(0, 1.6, (HEIGHT, WIDTH, 1))).clip(0, 255).astype(np.uint8)


def _noise(height: int, width: int, cells: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Smooth noise, -1 to 1, whose blotches are about ``cells`` pixels wide."""
    coarse = generator.integers(0, 256, (height // cells + 3, width // cells + 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(smooth, dtype=np.float64) / 127.5 - 1


def _background(width: int, generator: np.random.Generator) -> Image.Image:
    rows = np.arange(HEIGHT)[:, None]
    colour = np.empty((HEIGHT, width, 3))
    sky = np.clip(rows / _HORIZON, 0, 1)[..., None]
    clouds = np.clip(_noise(HEIGHT, width, 46, generator) + 0.3 * _noise(HEIGHT, width, 12, generator) - 0.1, 0, 1)
    colour[:] = (1 - sky) * (112, 158, 208) + sky * (205, 219, 228) + 38 * clouds[..., None]
    colour = np.broadcast_to(colour, (HEIGHT, width, 3)).copy()
    grain = 7 * _noise(HEIGHT, width, 3, generator) + 5 * _noise(HEIGHT, width, 9, generator)
    ground = np.where(
        rows[..., None] < 176, (128, 150, 92), np.where(rows[..., None] < 236, (176, 170, 160), (96, 97, 101))
    )
    below = np.broadcast_to(rows >= _HORIZON + 14, (HEIGHT, width))
    colour[below] = (ground + (grain * (0.6 + rows / HEIGHT))[..., None])[below]
    picture = Image.fromarray(colour.clip(0, 255).astype(np.uint8))
    picture = picture.resize((width * _FINE, HEIGHT * _FINE), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    _houses(draw, width, generator)
    _trees(picture, width, generator)
    for x in range(-20, width + 40, 62):  # slabs of the pavement, kerb, dashes of the road
        draw.line(_fine((x + 24, 176), (x, 236)), fill=(150, 145, 136), width=_FINE)
    for y in (176, 198):
        draw.line(_fine((0, y), (width, y)), fill=(150, 145, 136), width=_FINE)
    draw.rectangle(_fine((0, 234), (width, 238)), fill=(196, 192, 184))
    for x in range(10, width, 84):
        draw.polygon(_fine((x, 256), (x + 40, 256), (x + 37, 260), (x - 4, 260)), fill=(214, 212, 200))
    return picture


def _houses(draw: ImageDraw.ImageDraw, width: int, generator: np.random.Generator) -> None:
    left = -18
    while left < width:
        wide, high = int(generator.integers(58, 92)), int(generator.integers(56, 98))
        wall = np.array([(168, 112, 88), (196, 178, 150), (150, 148, 152), (182, 140, 112)])[generator.integers(4)]
        top, bottom = _HORIZON + 20 - high, _HORIZON + 20
        draw.rectangle(_fine((left, top), (left + wide, bottom)), fill=tuple(map(int, wall)))
        draw.rectangle(_fine((left, top - 5), (left + wide, top)), fill=tuple(map(int, wall * 0.6)))
        for x in range(left + 8, left + wide - 14, 17):
            for y in range(top + 9, bottom - 16, 21):
                lit = generator.uniform() < 0.25
                draw.rectangle(_fine((x, y), (x + 9, y + 12)), fill=(222, 206, 150) if lit else (64, 76, 92))
                draw.line(_fine((x + 4, y), (x + 4, y + 12)), fill=(206, 204, 198), width=_FINE)
        left += wide + int(generator.integers(2, 7))


def _trees(picture: Image.Image, width: int, generator: np.random.Generator) -> None:
    draw = ImageDraw.Draw(picture)
    for x in range(34, width, 118):
        draw.rectangle(_fine((x - 3, 128), (x + 3, 170)), fill=(92, 70, 52))
        for _ in range(46):
            angle, away = generator.uniform(0, 2 * math.pi), 26 * math.sqrt(generator.uniform())
            cx, cy, radius = x + away * math.cos(angle), 112 + 0.85 * away * math.sin(angle), generator.uniform(4, 9)
            green = int(generator.integers(78, 132) - 0.6 * (cy - 100))
            draw.ellipse(_fine((cx - radius, cy - radius), (cx + radius, cy + radius)), fill=(green // 2, green, 44))


def _walker(draw: ImageDraw.ImageDraw, x: float, ground: float, frame: int) -> None:
    """A person of 100 pixels who walks to the right; the feet stand at ``ground``."""
    phase = 2 * math.pi * frame / _STEP
    skin, shirt, trousers, dark = (214, 164, 134), (188, 52, 46), (44, 58, 98), (30, 40, 72)
    draw.ellipse(_fine((x - 26, ground - 4), (x + 26, ground + 5)), fill=(120, 116, 110))
    hip_y = ground - 50 + 1.8 * math.cos(2 * phase)
    hip, neck = (x, hip_y), (x + 3, hip_y - 32)
    far, near = phase + math.pi, phase
    _limb(draw, hip, (24, 0.52 * math.sin(far)), (25, -0.55 * max(0.0, math.cos(far + 0.5))), 9, dark, (40, 34, 30))
    _limb(draw, neck, (17, 0.6 * math.sin(near)), (16, 0.35), 6, (150, 40, 36), skin)
    _stroke(draw, [hip, (neck[0], neck[1] + 3)], 17, shirt)
    _limb(
        draw, hip, (24, 0.52 * math.sin(near)), (25, -0.55 * max(0.0, math.cos(near + 0.5))), 10, trousers, (40, 34, 30)
    )
    _limb(draw, neck, (17, 0.6 * math.sin(far)), (16, 0.35), 7, (206, 66, 58), skin)
    head = (neck[0] + 2, neck[1] - 12)
    _stroke(draw, [neck, head], 6, skin)
    draw.ellipse(_fine((head[0] - 8, head[1] - 10), (head[0] + 8, head[1] + 9)), fill=skin)
    draw.chord(_fine((head[0] - 9, head[1] - 11), (head[0] + 8, head[1] + 6)), 150, 345, fill=(64, 44, 32))


def _limb(
    draw: ImageDraw.ImageDraw,
    start: tuple[float, float],
    upper: tuple[float, float],
    lower: tuple[float, float],
    wide: float,
    colour: tuple[int, int, int],
    end: tuple[int, int, int],
) -> None:
    """Two bones of (length, angle) from ``start`` downward; ``lower`` turns on top of ``upper``; then hand or foot."""
    joint = start[0] + upper[0] * math.sin(upper[1]), start[1] + upper[0] * math.cos(upper[1])
    angle = upper[1] + lower[1]
    tip = joint[0] + lower[0] * math.sin(angle), joint[1] + lower[0] * math.cos(angle)
    _stroke(draw, [start, joint, tip], wide, colour)
    _stroke(draw, [tip, (tip[0] + (8 if wide > 8 else 1), tip[1] + (0 if wide > 8 else 3))], wide * 0.7, end)


def _stroke(
    draw: ImageDraw.ImageDraw, points: list[tuple[float, float]], wide: float, colour: tuple[int, int, int]
) -> None:
    draw.line(_fine(*points), fill=colour, width=round(wide * _FINE), joint="curve")
    for x, y in points:
        draw.ellipse(_fine((x - wide / 2, y - wide / 2), (x + wide / 2, y + wide / 2)), fill=colour)


def _fine(*points: tuple[float, float]) -> list[float]:
    return [value * _FINE for point in points for value in point]
