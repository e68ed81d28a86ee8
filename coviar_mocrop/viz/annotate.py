"""Annotate a video with its windows: the box, and a caption with class, probability and time."""

from __future__ import annotations

import os
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import av.error
import matplotlib
import numpy as np
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from coviar_mocrop.errors import VideoError
from coviar_mocrop.files import atomic_write
from coviar_mocrop.inference.prediction import WindowPrediction
from coviar_mocrop.messages import clock, reason_of
from coviar_mocrop.viz.drawing import BOX_COLOUR

_CLOCK = 90_000
"""Ticks per second of the frames' times, as in MPEG-TS."""


class AnnotatedVideo:
    """Writes an annotated H.264 video frame by frame.

    Use it as a context manager. The file appears when the context ends without an error.

    Attributes:
        path: path of the file.
        frames: number of frames added.
    """

    def __init__(self, path: str | os.PathLike[str], frame_rate: float, size: tuple[int, int]) -> None:
        """Set up the video. Nothing is written yet.

        Args:
            path: path of the file. Its suffix selects the container.
            frame_rate: frames per second.
            size: (width, height) in pixels, rounded up to even numbers. Frames of another size are resized.
        """
        self.path = Path(path)
        self.frames = 0
        self._rate = Fraction(frame_rate).limit_denominator(1001)
        # AVI has frames at a constant rate only
        self._tick = 1 / self._rate if self.path.suffix.lower() == ".avi" else Fraction(1, _CLOCK)
        self._at = 0.0
        self._size = (size[0] + size[0] % 2, size[1] + size[1] % 2)
        self._open = ExitStack()
        self._container: OutputContainer
        self._stream: VideoStream
        # matplotlib brings a font with letters of many languages, on every platform
        font = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
        self._font = ImageFont.truetype(str(font), max(round(self._size[1] / 24), 9))

    def __enter__(self) -> AnnotatedVideo:
        """Open the file.

        Raises:
            CoviarMocropError: the file cannot be written.
            VideoError: the suffix names no container for H.264.
        """
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_write(self.path))
            try:
                self._container = stack.enter_context(av.open(str(temporary), "w"))
                options = {"preset": "veryfast", "crf": "23"}
                self._stream = self._container.add_stream("libx264", rate=self._rate, options=options)
            except (av.error.FFmpegError, ValueError) as error:
                raise self._failed(error) from error
            self._stream.width, self._stream.height = self._size
            self._stream.pix_fmt = "yuv420p"
            self._stream.codec_context.time_base = self._tick
            self._stream.codec_context.gop_size = max(round(2 * self._rate), 1)  # players can go to each key frame
            self._open = stack.pop_all()
        return self

    def add(self, picture: NDArray[np.uint8], prediction: WindowPrediction | None, at: float | None = None) -> None:
        """Write a frame.

        Args:
            picture: the frame, uint8 [H, W, 3] RGB.
            prediction: prediction for the window of the frame; None: nothing is drawn.
            at: when the frame is shown, seconds since the first one; None: one frame time after the last.

        Raises:
            VideoError: the frame cannot be encoded or written.
        """
        image = Image.fromarray(picture)
        if image.size != self._size:
            image = image.resize(self._size)
        if prediction is not None:
            self._draw(image, prediction)
        frame = VideoFrame.from_ndarray(np.asarray(image), format="rgb24")
        at = self._at + float(1 / self._rate) if at is None else at
        frame.pts = 0 if not self.frames else max(round(at / self._tick), round(self._at / self._tick) + 1)
        frame.time_base, self._at = self._tick, float(frame.pts * self._tick)
        try:
            self._container.mux(self._stream.encode(frame))
        except av.error.FFmpegError as error:
            raise self._failed(error) from error
        self.frames += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Finish the file, or remove it.

        Raises:
            VideoError: no frame was added, or the file cannot be written.
        """
        if error is not None:
            self._open.__exit__(kind, error, traceback)  # removes the temporary file
            return
        with self._open:
            if not self.frames:
                raise VideoError(f"{self.path}: no frame to write")
            try:
                self._container.mux(self._stream.encode(None))
                self._container.close()
            except av.error.FFmpegError as problem:
                raise self._failed(problem) from problem

    def _draw(self, image: Image.Image, prediction: WindowPrediction) -> None:
        width, height = image.size
        draw = ImageDraw.Draw(image, "RGBA")
        if prediction.box is not None:
            top, left, bottom, right = prediction.box.to_pixels(height, width)
            line = max(round(height / 150), 2)  # a line of one pixel loses its colour in 4:2:0
            draw.rectangle((left, top, right - 1, bottom - 1), outline=BOX_COLOUR, width=line)
        span = f"{clock(prediction.start)} to {clock(prediction.end)}"
        margin = max(height // 60, 2)
        line_height = sum(self._font.getmetrics()) + 2 * margin
        draw.rectangle((0, height - line_height, width, height), fill=(0, 0, 0, 150))
        baseline = height - margin
        room = width - 4 * margin - draw.textlength(span, font=self._font)
        text = "idle"
        if not prediction.idle:
            name, share = prediction.best(1)[0]
            text = f"{name} {share:.0%}"
            while len(name) > 1 and draw.textlength(text, font=self._font) > room:
                name = name[:-1]
                text = f"{name}… {share:.0%}"
        draw.text((margin, baseline), text, font=self._font, anchor="ld", fill="white")
        draw.text((width - margin, baseline), span, font=self._font, anchor="rd", fill=(210, 210, 210))

    def _failed(self, error: Exception) -> VideoError:
        hint = "" if self.frames else "; use .mp4, .mkv or .avi"
        return VideoError(f"{self.path}: cannot be written as H.264 ({reason_of(error)}){hint}")
