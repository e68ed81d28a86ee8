"""Find the key frames of an H.264 stream at which decoding can begin, and where its pictures are cropped.

Containers also mark the recovery points of periodic intra refresh as key frames. At such a frame the picture is not
complete. It is complete some frames later; until then, the decoder gives nothing or a wrong picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

_SLICE, _IDR_SLICE, _SEI, _SPS = 1, 5, 6, 7
_WITH_CHROMA_FORMAT = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 144, 244})
"""Profiles whose sequence parameter set holds the chroma format and scaling matrices (H.264, 7.3.2.1.1)."""
_RECOVERY_POINT = 6
_LOOK_AT = 1 << 16  # bytes to examine; the first slice starts long before, and only its kind matters


def nal_length_size(extradata: bytes | None) -> int:
    """Number of bytes before each NAL unit that hold its length (mp4, Matroska); 0: start codes (raw, MPEG-TS)."""
    return (extradata[4] & 3) + 1 if extradata and len(extradata) > 4 and extradata[0] == 1 else 0


def is_whole(packet: memoryview, length_size: int) -> bool:
    """Whether a packet that is marked as a key frame can be decoded by itself.

    Args:
        packet: data of the packet.
        length_size: see :func:`nal_length_size`.
    """
    recovery = 0
    for unit in _units(packet[:_LOOK_AT], length_size):
        kind = unit[0] & 31
        if kind == _IDR_SLICE:
            return True
        if kind == _SLICE:
            return recovery == 0
        if kind == _SEI:
            recovery = _frames_to_recovery(unit) or recovery
    return True  # nothing says otherwise


def _units(data: memoryview, length_size: int) -> Iterator[bytes]:
    """The NAL units of a packet. Damaged units may be cut off."""
    if not length_size:
        yield from (unit for unit in bytes(data).split(b"\0\0\1")[1:] if unit)
        return
    at = 0
    while at + length_size < len(data):
        end = at + length_size + int.from_bytes(data[at : at + length_size], "big")
        unit = bytes(data[at + length_size : end])
        if unit:
            yield unit
        at = end


def _frames_to_recovery(unit: bytes) -> int:
    """Number of frames until the picture is complete, as an SEI unit says; 0 if it does not say."""
    data = _payload(unit)
    at = 0
    while at + 2 < len(data):
        numbers = []
        for _ in range(2):  # the message's kind and size, each a row of 255s and a rest
            number = 0
            while at < len(data) and data[at] == 255:
                number, at = number + 255, at + 1
            numbers.append(number + (data[at] if at < len(data) else 0))
            at += 1
        kind, size = numbers
        if kind == _RECOVERY_POINT:
            with suppress(IndexError):  # the unit is cut off
                return _Bits(data[at : at + 5]).number()
        at += size
    return 0


def crop_offset(extradata: bytes | None) -> tuple[int, int]:
    """Pixels that a decoder crops from the left and from the top of its pictures; motion vectors keep counting them.

    Args:
        extradata: the parameter sets, as a container stores them (``avcC``), or with start codes.

    Returns:
        (left, top), pixels; (0, 0) if there is no sequence parameter set, or it is damaged.
    """
    data = extradata or b""
    if nal_length_size(data):
        units = [data[8 : 8 + int.from_bytes(data[6:8], "big")]] if data[5:] and data[5] & 31 else []
    else:
        units = list(_units(memoryview(data), 0))
    sets = [unit for unit in units if unit and unit[0] & 31 == _SPS]
    try:
        return _crop_of(_Bits(_payload(sets[0])))
    except IndexError:  # there is none, or it ends too soon
        return 0, 0


def _crop_of(bits: _Bits) -> tuple[int, int]:
    """The crop of a sequence parameter set (H.264, 7.3.2.1.1 and 7.4.2.1.1)."""
    profile = bits.take(8)
    bits.take(16)
    bits.number()
    chroma, separate = 1, 0
    if profile in _WITH_CHROMA_FORMAT:
        chroma = bits.number()
        separate = bits.take(1) if chroma == 3 else 0
        bits.numbers(2)
        bits.take(1)
        if bits.take(1):
            for matrix in range(8 if chroma != 3 else 12):
                if bits.take(1):
                    bits.skip_scaling_list(16 if matrix < 6 else 64)
    bits.number()
    order = bits.number()
    if order == 0:
        bits.number()
    elif order == 1:
        bits.take(1)
        bits.numbers(2)
        bits.numbers(bits.number())
    bits.number()
    bits.take(1)
    bits.numbers(2)
    frames_only = bits.take(1)
    bits.take(1 if frames_only else 2)
    if not bits.take(1):
        return 0, 0
    left, _, top = bits.numbers(3)
    halved = 0 if separate else chroma
    return left * (2 if halved in (1, 2) else 1), top * (2 if halved == 1 else 1) * (2 - frames_only)


def _payload(unit: bytes) -> bytes:
    """The payload of a NAL unit, without its header and the bytes that keep start codes from appearing in it."""
    return unit[1:].replace(b"\0\0\3", b"\0\0")


class _Bits:
    """Reads bits and Exp-Golomb numbers; IndexError at the end."""

    def __init__(self, data: bytes) -> None:
        self._bits = "".join(f"{byte:08b}" for byte in data)
        self._at = 0

    def take(self, count: int) -> int:
        """The next ``count`` bits as a number."""
        taken = self._bits[self._at : self._at + count]
        if len(taken) < count:
            raise IndexError
        self._at += count
        return int(taken, 2)

    def number(self) -> int:
        """The next unsigned Exp-Golomb number (H.264, 9.1)."""
        zeros = self._bits.find("1", self._at) - self._at
        if zeros < 0:
            raise IndexError
        self._at += zeros
        return self.take(zeros + 1) - 1

    def numbers(self, count: int) -> list[int]:
        """The next ``count`` Exp-Golomb numbers."""
        return [self.number() for _ in range(count)]

    def skip_scaling_list(self, size: int) -> None:
        """Skip a scaling list (H.264, 7.3.2.1.1.1)."""
        scale = 8
        for _ in range(size):
            coded = self.number()
            change = (coded + 1) // 2 if coded % 2 else -(coded // 2)
            scale = (scale + change) % 256
            if scale == 0:  # the rest of the list repeats the last value
                return
