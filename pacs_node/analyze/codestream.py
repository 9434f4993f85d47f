"""What a compressed image says of itself, read before a decoder takes memory for it."""

from __future__ import annotations

import struct

_SOC_SIZ = b"\xff\x4f\xff\x51"
# SOF0 to SOF15 without DHT, JPG and DAC (ITU-T T.81 table B.1), and SOF55 of JPEG-LS (T.87 C.1).
_FRAME_HEADERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}


def size(stream: bytes) -> tuple[int, int, int]:
    """Rows, columns and samples a pixel of a JPEG, JPEG-LS or JPEG 2000 stream (ITU-T T.81, T.87, T.800).

    Raises ValueError where there is no such stream, struct.error where it ends too early.
    """
    at = stream.find(_SOC_SIZ, 0, 1024)
    if at >= 0:
        right, bottom, left, top = struct.unpack_from(">4I", stream, at + 8)
        return bottom - top, right - left, struct.unpack_from(">H", stream, at + 40)[0]
    if not stream.startswith(b"\xff\xd8"):
        raise ValueError("no JPEG, JPEG-LS or JPEG 2000 stream")
    at = 2
    while True:
        mark, kind, length = struct.unpack_from(">BBH", stream, at)
        if mark != 0xFF:
            raise ValueError("no frame header in the JPEG stream")
        if kind == 0xFF:  # a fill byte
            at += 1
            continue
        if kind in _FRAME_HEADERS:
            rows, columns, samples = struct.unpack_from(">HHB", stream, at + 5)
            return rows, columns, samples
        at += 2 + length


def is_complete(stream: bytes) -> bool:
    """Whether it ends as JPEG (EOI), JPEG-LS and JPEG 2000 (EOC) do, but for padding."""
    return stream.rstrip(b"\0\xff").endswith(b"\xff\xd9")
