"""Find the key frames of an H.264 stream at which decoding can begin.

Containers also mark the recovery points of periodic intra refresh as key frames. At such a frame the picture is not
complete. It is complete some frames later; until then, the decoder gives nothing or a wrong picture.
"""

from __future__ import annotations

from collections.abc import Iterator

_SLICE, _IDR_SLICE, _SEI = 1, 5, 6
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
