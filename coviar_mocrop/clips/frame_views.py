"""What a network over frames of one kind reads of a clip: TSN's frames, in the windows of training or testing.

Streams and exported networks both use this, so both see the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coviar_mocrop.bitstream import Gop, Kind
from coviar_mocrop.clips.config import InputConfig
from coviar_mocrop.clips.reader import View
from coviar_mocrop.clips.sampling import motion_frames, sampled_frames
from coviar_mocrop.clips.windows import Window, testing_windows, training_window
from coviar_mocrop.mocrop import CropBox


@dataclass(frozen=True)
class FrameViews:
    """One view of a clip.

    Attributes:
        name: of the stream.
        kind: of the frames.
        input: how frames are sampled and cropped.
        size: side of the network's input, pixels.
    """

    name: str
    kind: Kind
    input: InputConfig
    size: int

    def sample(self, num_frames: int, gops: Sequence[Gop], generator: np.random.Generator | None = None) -> list[int]:
        """The frames to read, in order of time: one from each segment (TSN). Arguments: see :meth:`views`."""
        frames = sampled_frames(num_frames, self.input, self.kind, generator)
        return motion_frames(gops, frames) if self.kind in ("mv", "residual") else frames

    def windows(self, frame_size: tuple[int, int], box: CropBox | None) -> list[Window]:
        """The windows of testing."""
        return testing_windows(frame_size, box, self.input.test_crops)

    def random_windows(
        self, frame_size: tuple[int, int], box: CropBox | None, generator: np.random.Generator
    ) -> list[Window]:
        """The window of training."""
        return [training_window(frame_size, box, self.input.scales, self.input.flip, generator)]

    def views(
        self, num_frames: int, gops: Sequence[Gop], generator: np.random.Generator | None = None
    ) -> dict[str, View]:
        """What to read of a clip.

        Args:
            num_frames: of the clip.
            gops: of the clip, display order.
            generator: in training, what random frames and windows are drawn from; None in testing.
        """
        return {"frames": self.view(self.sample(num_frames, gops, generator), generator)}

    def view(self, frames: Sequence[int], generator: np.random.Generator | None = None) -> View:
        """These frames, and the windows of training where there is a generator, else those of testing."""
        if generator is None:
            return View(self.kind, frames, self.windows, self.size)
        return View(self.kind, frames, lambda size, box: self.random_windows(size, box, generator), self.size)
