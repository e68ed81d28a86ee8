"""Index the frames of a stream: which packet holds which frame, and where the key frames are.

Containers that store true presentation times (mp4, Matroska, MPEG-TS, ...) give the display order without decoding. AVI
and raw streams with B-frames do not, and packed B-frames put two frames into one packet. There, one decoding pass
without pixel conversion finds the order.
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
        packet_of_frame: int64 [frames], the packet (decoding order) of each frame (display order).
        frame_of_packet: int64 [packets], its inverse; -1 if a packet gives no frame.
        key_frames: int64 [key frames], ascending, display order. The first is 0.
        key_packets: int64, ascending: the packets at which decoding can start.
        reordered: whether display order differs from decoding order, that is, whether there are B-frames.
    """

    packet_of_frame: NDArray[np.int64]
    frame_of_packet: NDArray[np.int64]
    key_frames: NDArray[np.int64]
    key_packets: NDArray[np.int64]
    reordered: bool

    @property
    def num_frames(self) -> int:
        """Number of frames."""
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
            leading: include the frames that come after the key frame in the file but are shown before it. They refer to
                the GOP before, so most decoders do not need them. With packed B-frames, decoders do.
        """
        # the key frame itself may be one that an edit list hides
        before = int(np.searchsorted(self.key_packets, self.packet_of_frame[first], side="right")) - 1
        start = int(self.key_packets[max(before, 0)])
        end = int(self.packet_of_frame[first : last + 1].max())
        if leading:
            return list(range(start, end + 1))
        needed = self.frame_of_packet[start : end + 1]
        # a packet without a frame of its own can still hold data (placeholders of packed B-frames)
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


def is_in_display_order(index: FrameIndex, table: PacketTable, format_name: str, may_reorder: bool) -> bool:
    """Whether the frames of an index are in display order; True if the packets alone do not tell it."""
    if not has_true_times(table, format_name, may_reorder):
        return True
    shown = table.pts[index.packet_of_frame] if may_reorder else index.packet_of_frame
    return bool((np.diff(shown) > 0).all())


def index_from_packets(table: PacketTable, may_reorder: bool) -> FrameIndex | None:
    """Index by presentation times, or by decoding order if the codec does not reorder frames.

    Packets before the first key frame, and those that the container's edit list discards, give no frame. The result is
    None if no packet gives a frame.
    """
    keys = np.flatnonzero(table.key).tolist() or [0]
    shown = [number for number in np.flatnonzero(~table.discard).tolist() if number >= keys[0]]
    if may_reorder:
        shown.sort(key=lambda number: (table.pts[number], number))
        if keys[0] in shown:  # frames shown before the first key frame refer to frames that do not exist
            shown = shown[shown.index(keys[0]) :]
    return index_from_order(len(table), shown, keys)


def index_from_order(num_packets: int, order: list[int], key_packets: list[int]) -> FrameIndex | None:
    """Index from packet numbers in display order; None if there are none."""
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
