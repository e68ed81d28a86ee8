"""Which of an H.264 stream's key frames are places where decoding can begin.

Containers also mark the recovery points of periodic intra refresh as key frames. Such a frame is not whole: the
picture is complete some frames later, and until then nothing, or something else, is decoded.
"""

from __future__ import annotations

from collections.abc import Iterator

_SLICE, _IDR_SLICE, _SEI = 1, 5, 6
_RECOVERY_POINT = 6
_LOOK_AT = 1 << 16  # bytes; the first slice comes long before, and of that only the kind matters


def nal_length_size(extradata: bytes | None) -> int:
    """Bytes in front of each NAL unit that tell its length (mp4, Matroska); 0: start codes (raw, MPEG-TS)."""
    return (extradata[4] & 3) + 1 if extradata and len(extradata) > 4 and extradata[0] == 1 else 0


def is_whole(packet: memoryview, length_size: int) -> bool:
    """Whether a packet that is marked as a key frame can be decoded by itself.

    Args:
        packet: its data.
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
    """The NAL units; damaged ones may be cut off."""
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
    """What a supplemental unit says of the frames until the picture is whole; 0 where it says nothing."""
    data = unit[1:].replace(b"\0\0\3", b"\0\0")
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
            bits = "".join(f"{byte:08b}" for byte in data[at : at + 5])
            zeros = len(bits) - len(bits.lstrip("0"))
            return int(bits[zeros : 2 * zeros + 1] or "1", 2) - 1  # Exp-Golomb
        at += size
    return 0
