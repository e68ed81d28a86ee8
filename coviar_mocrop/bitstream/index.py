"""Which packet holds which frame, and where the key frames are: found without decoding where possible.

Containers that store true presentation times (mp4, Matroska, MPEG-TS, ...) tell the display order from the
packets alone. AVI and raw streams do not when there are B-frames (and packed B-frames put two frames into
one packet), so there one decoding pass, without any pixel conversion, finds the order once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coviar_mocrop.bitstream.packets import NO_TIME, PacketTable
from coviar_mocrop.bitstream.types import Gop

UNTIMED_FORMATS = {"avi", "h264", "m4v", "mpegvideo"}
"""Containers whose packet times do not tell the display order of B-frames."""


@dataclass(frozen=True)
class FrameIndex:
    """The frames of a stream.

    Attributes:
        packet_of_frame: int64 [frames], the packet (decoding order) that each frame (display order) is in.
        frame_of_packet: int64 [packets], its inverse; -1 where a packet gives no frame.
        key_frames: int64 [key frames], ascending, display order; the first is 0.
        key_packets: int64, ascending, the packets that decoding can start at.
        reordered: whether display order differs from decoding order, that is, there are B-frames.
    """

    packet_of_frame: NDArray[np.int64]
    frame_of_packet: NDArray[np.int64]
    key_frames: NDArray[np.int64]
    key_packets: NDArray[np.int64]
    reordered: bool

    @property
    def num_frames(self) -> int:
        """Frames in display order."""
        return len(self.packet_of_frame)

    def key_span(self, frame: int) -> tuple[int, int]:
        """First and last frame (display order) of the real GOP that holds ``frame``."""
        position = int(np.searchsorted(self.key_frames, frame, side="right")) - 1
        end = self.key_frames[position + 1] if position + 1 < len(self.key_frames) else self.num_frames
        return int(self.key_frames[position]), int(end) - 1

    def packets(self, first: int, last: int, *, leading: bool = False) -> list[int]:
        """Packets, in decoding order, that frames ``first`` (a key frame) to ``last`` need.

        Args:
            first: display order.
            last: display order, of the same GOP.
            leading: with the frames that are shown before the key frame but come after it in the file. They
                refer to the GOP before, so most decoders can do without them; with packed B-frames they can not.
        """
        # the key frame itself may be one that an edit list hides
        before = int(np.searchsorted(self.key_packets, self.packet_of_frame[first], side="right")) - 1
        start = int(self.key_packets[max(before, 0)])
        end = int(self.packet_of_frame[first : last + 1].max())
        if leading:
            return list(range(start, end + 1))
        needed = self.frame_of_packet[start : end + 1]
        # a packet without a frame of its own can still carry data (packed B-frames' placeholders)
        return (start + np.flatnonzero((needed >= first) | (needed < 0))).tolist()

    def gops(self, anchor_every: int | None) -> list[Gop]:
        """Cut at key frames, and every ``anchor_every`` frames inside longer GOPs (None: key frames only)."""
        cut: list[Gop] = []
        ends = [*self.key_frames[1:].tolist(), self.num_frames]
        for start, end in zip(self.key_frames.tolist(), ends, strict=True):
            step = anchor_every or (end - start)
            cut.extend(Gop(at, min(step, end - at)) for at in range(start, end, step))
        return cut


def has_true_times(table: PacketTable, format_name: str, may_reorder: bool) -> bool:
    """Whether the packets alone tell the display order."""
    if not may_reorder:
        return True
    complete = len(np.unique(table.pts)) == len(table) and NO_TIME not in table.pts
    return complete and not (set(format_name.split(",")) & UNTIMED_FORMATS)


def index_from_packets(table: PacketTable, may_reorder: bool) -> FrameIndex | None:
    """Index by presentation times, or by decoding order where the codec does not reorder.

    Returns None if no packet gives a frame. Packets before the first key frame, and those that the
    container's edit list discards, give none.
    """
    keys = np.flatnonzero(table.key).tolist() or [0]
    shown = [number for number in np.flatnonzero(~table.discard).tolist() if number >= keys[0]]
    if may_reorder:
        shown.sort(key=lambda number: (table.pts[number], number))
        if keys[0] in shown:  # what is shown before the first key frame refers to frames that are not there
            shown = shown[shown.index(keys[0]) :]
    return index_from_order(len(table), shown, keys)


def index_from_order(num_packets: int, order: list[int], key_packets: list[int]) -> FrameIndex | None:
    """Index from packet numbers in display order."""
    if not order:
        return None
    packet_of_frame = np.asarray(order, dtype=np.int64)
    frame_of_packet = np.full(num_packets, -1, dtype=np.int64)
    frame_of_packet[packet_of_frame] = np.arange(len(order))
    starts = np.unique(np.asarray(key_packets, dtype=np.int64))
    key_frames = np.sort(frame_of_packet[starts])
    key_frames = np.unique(np.append(key_frames[key_frames >= 0], 0))
    reordered = bool((np.diff(packet_of_frame) < 0).any())
    return FrameIndex(packet_of_frame, frame_of_packet, key_frames, starts, reordered)
