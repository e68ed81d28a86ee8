"""The packets of a video stream: kept in memory for a clip, read again from the file for a long video."""

from __future__ import annotations

import zlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields

import av
import numpy as np
from av.container.input import InputContainer
from av.stream import Stream
from numpy.typing import NDArray

from coviar_mocrop.bitstream import h264
from coviar_mocrop.bitstream.container import name_of, open_container, watched
from coviar_mocrop.bitstream.types import Source
from coviar_mocrop.errors import VideoError

KEEP_BYTES = 64 << 20
"""If the packets of a stream are larger than this in all, bytes, they are not kept in memory."""

_AT_A_TIME = 256
"""Number of packets that are examined together if they are not kept."""

_NEAR = 32
"""Up to this many packets are read and skipped, because seeking would take longer."""

NO_TIME = np.iinfo(np.int64).min
"""Stands for a missing time stamp."""


@dataclass(frozen=True)
class PacketTable:
    """What the container says of each packet, in decoding order. All arrays are [packets].

    Attributes:
        pts: int64, presentation times; ``NO_TIME`` if there is none.
        dts: int64, decoding times; ``NO_TIME`` if there is none.
        key: bool, whether decoding can start here. This is False for recovery points of intra refresh.
        discard: bool, whether the container's edit list hides the packet.
        corrupt: bool, whether the container says that the packet is damaged (bytes are missing).
        checksum: uint32, CRC-32 of the data; empty if not computed.
    """

    pts: NDArray[np.int64]
    dts: NDArray[np.int64]
    key: NDArray[np.bool_]
    discard: NDArray[np.bool_]
    corrupt: NDArray[np.bool_]
    checksum: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.pts)

    @staticmethod
    def joined(parts: Sequence[PacketTable]) -> PacketTable:
        """Join several tables."""
        names = [field.name for field in fields(PacketTable)]
        return PacketTable(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


class PacketStore:
    """Gives packets by number. The number is also their time stamp, so a decoded frame tells which packet it is from.

    Packets that are not kept in memory are demuxed again, from the key frame before. If seeking to its time does not
    lead to the same packet (raw streams), they are demuxed from the start of the file. Checksums show whether a packet
    is the same.
    """

    def __init__(
        self,
        source: Source,
        container: InputContainer,
        stream: Stream,
        *,
        known: PacketTable | None = None,
        checksums: bool = False,
    ) -> None:
        """Go through the file once, unless its packets are ``known`` (with checksums).

        Args:
            source: what ``container`` reads, to open it again.
            container: an open container, at its start.
            stream: a stream of ``container``.
            known: the ``table`` of an earlier store.
            checksums: whether to compute checksums even if packets are kept in memory.

        Raises:
            VideoError: the container is so damaged that it cannot be read.
        """
        self.path = name_of(source)
        self._file = source
        self._stream_index = stream.index
        self._closed = False
        self._again: InputContainer | None = None  # a container of its own, for reading from the start again
        self._source = container
        self._demuxed: Iterator[av.Packet] = iter(())
        self._next = -1  # the number of the packet that comes next; -1: not known
        self._seeks = True
        self._kept: list[av.Packet] | None = None
        self.table = self._scan(stream, checksums) if known is None else known
        self._keys = np.flatnonzero(self.table.key)

    def _scan(self, stream: Stream, checksums: bool) -> PacketTable:
        context = stream.codec_context
        is_h264 = context is not None and context.name == "h264"
        length_size = h264.nal_length_size(getattr(context, "extradata", None)) if is_h264 else None
        parts: list[PacketTable] = []
        kept: list[av.Packet] = []
        size = 0
        with watched(self._file):
            for packet in _with_data(self._source, stream):
                kept.append(packet)
                size += packet.size
                if size > KEEP_BYTES and len(kept) >= _AT_A_TIME:
                    parts.append(_table(kept, length_size, checksums=True))
                    kept.clear()
        parts.append(_table(kept, length_size, checksums=checksums or size > KEEP_BYTES))
        if size <= KEEP_BYTES:
            for number, packet in enumerate(kept):
                packet.pts = packet.dts = number
            self._kept = kept
        return PacketTable.joined(parts)

    def read(self, numbers: Iterable[int]) -> Generator[av.Packet, None, None]:
        """Give packets by number. Ascending order is fastest.

        Raises:
            VideoError: the file has changed, or was closed.
        """
        for number in numbers:
            if self._closed:
                raise VideoError(f"{self.path}: was closed; open it again")
            yield self._fetch(number) if self._kept is None else self._kept[number]

    def close(self) -> None:
        """Free the packets."""
        self._closed = True
        self._kept = None
        self._demuxed = iter(())
        if self._again is not None:
            self._again.close()
            self._again = None

    # -- demuxing again ------------------------------------------------------------------------------

    def _fetch(self, number: int) -> av.Packet:
        packet = self._seek_and_read(number) if self._seeks else None
        if packet is None:
            self._seeks = False
            packet = self._read_from_start(number)
        packet.pts = packet.dts = number
        return packet

    def _seek_and_read(self, number: int) -> av.Packet | None:
        """Packet ``number``, or None if seeking does not find it."""
        position = int(np.searchsorted(self._keys, number, side="right")) - 1
        if position < 0:
            return None
        key = int(self._keys[position])
        with suppress(VideoError), watched(self._file):
            if not max(min(key, number - _NEAR), 0) <= self._next <= number:
                self._next = -1
                times = [int(time) for time in (self.table.pts[key], self.table.dts[key]) if time != NO_TIME]
                if not times:
                    return None
                stream = self._source.streams[self._stream_index]
                self._source.seek(min(times), stream=stream)
                self._demuxed = _with_data(self._source, stream)
            return self._read_on(number)
        return None

    def _read_from_start(self, number: int) -> av.Packet:
        with watched(self._file, "can no longer be read ({}); open it again"):
            if self._again is None or not 0 <= self._next <= number:
                if self._again is not None:
                    self._again.close()
                self._again = open_container(self._file)
                self._demuxed = _with_data(self._again, self._again.streams[self._stream_index])
                self._next = 0
            packet = self._read_on(number)
        if packet is None:
            raise VideoError(f"{self.path}: has changed since it was opened; open it again")
        return packet

    def _read_on(self, number: int) -> av.Packet | None:
        """Read on to packet ``number``; None if another packet comes."""
        for packet in self._demuxed:
            found = self._number_of(packet) if self._next < 0 else self._next
            if found < 0:  # what comes first after a seek need not be a whole packet
                continue
            if found > number or not self._is(packet, found):
                break
            self._next = found + 1
            if found == number:
                return packet
        self._next = -1
        return None

    def _number_of(self, packet: av.Packet) -> int:
        """The number of a packet; -1 if its times and checksum do not identify it."""
        alike = np.flatnonzero(self.table.checksum == zlib.crc32(packet)).tolist()
        same = [number for number in alike if self._is(packet, number)]
        return int(same[0]) if len(same) == 1 else -1

    def _is(self, packet: av.Packet, number: int) -> bool:
        if number >= len(self.table):
            return False
        expected = (self.table.pts[number], self.table.dts[number], self.table.checksum[number])
        return (*_times(packet), zlib.crc32(packet)) == expected


def _table(packets: Sequence[av.Packet], length_size: int | None, *, checksums: bool) -> PacketTable:
    """What the container says of some packets. ``length_size`` is for H.264; see :func:`h264.nal_length_size`."""
    keys = [packet.is_keyframe for packet in packets]
    if length_size is not None:
        keys = [key and h264.is_whole(memoryview(p), length_size) for key, p in zip(keys, packets, strict=True)]
    return PacketTable(
        pts=np.array([NO_TIME if packet.pts is None else packet.pts for packet in packets], np.int64),
        dts=np.array([NO_TIME if packet.dts is None else packet.dts for packet in packets], np.int64),
        key=np.array(keys, np.bool_),
        discard=np.array([packet.is_discard for packet in packets], np.bool_),
        corrupt=np.array([packet.is_corrupt for packet in packets], np.bool_),
        checksum=np.array([zlib.crc32(packet) for packet in packets] if checksums else [], np.uint32),
    )


def _with_data(container: InputContainer, stream: Stream) -> Iterator[av.Packet]:
    """The packets of ``stream`` as they come, without empty ones (the last one is empty)."""
    return (packet for packet in container.demux(stream) if packet.size)


def _times(packet: av.Packet) -> tuple[int, int]:
    return (NO_TIME if packet.pts is None else packet.pts, NO_TIME if packet.dts is None else packet.dts)
