"""Markers of compressed images, read before a decoder allocates memory."""

from __future__ import annotations

import struct

_SOC_SIZ = b"\xff\x4f\xff\x51"
_SOT, _SOS = 0xFF90, 0xDA
# SOF0 to SOF15 without DHT, JPG and DAC (ITU-T T.81 table B.1), and SOF55 of JPEG-LS (T.87 C.1).
_FRAME_HEADERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_DCT, _LOSSLESS = (0xC0, 0xC1, 0xC2), 0xC3


def size(stream: bytes) -> tuple[int, int, int, int]:
    """Rows, columns, samples a pixel and bits a sample of a JPEG, JPEG-LS or JPEG 2000 stream.

    ITU-T T.81, T.87, T.800. Raises ValueError for another stream or broken markers, struct.error for one that
    ends too early.
    """
    at = stream.find(_SOC_SIZ, 0, 1024)
    if at >= 0:
        right, bottom, left, top = struct.unpack_from(">4I", stream, at + 8)
        samples, bits = struct.unpack_from(">HB", stream, at + 40)
        return bottom - top, right - left, samples, (bits & 0x7F) + 1
    _, bits, rows, columns, samples = _frame_header(stream)
    return rows, columns, samples, bits


def is_complete(stream: bytes) -> bool:
    """Whether a stream ends with the marker EOI (JPEG, JPEG-LS) or EOC (JPEG 2000), apart from padding."""
    return stream.rstrip(b"\0\xff").endswith(b"\xff\xd9")


def has_data_for_all(stream: bytes) -> bool:
    """Whether a stream can have data for every pixel; decoders silently fill in missing data.

    JPEG has at least a bit for each pixel or each block of 8 x 8 (T.81 F, H), JPEG 2000 has every tile.
    Raises as `size` does.
    """
    at = stream.find(_SOC_SIZ, 0, 1024)
    if at >= 0:
        return _tiles(stream, at) == _tiles_stated(stream, at)
    kind, _, rows, columns, _ = _frame_header(stream)
    blocks = -(-rows // 8) * -(-columns // 8)
    return len(stream) * 8 >= (rows * columns if kind == _LOSSLESS else blocks if kind in _DCT else 0)


def _frame_header(stream: bytes) -> tuple[int, int, int, int, int]:
    """Kind, bits a sample, rows, columns and samples a pixel of a JPEG or JPEG-LS stream.

    All segments up to the data must be well-formed, because gdcm ends the process if they are not.
    """
    if not stream.startswith(b"\xff\xd8"):
        raise ValueError("no JPEG, JPEG-LS or JPEG 2000 stream")
    at, frame = 2, None
    while True:
        mark, kind, length = struct.unpack_from(">BBH", stream, at)
        if mark != 0xFF or kind < 0xC0:
            raise ValueError("a broken marker in the JPEG stream")
        if kind == 0xFF:  # a fill byte
            at += 1
            continue
        if kind in _FRAME_HEADERS:
            frame = (kind, *struct.unpack_from(">BHHB", stream, at + 4))
        if kind == _SOS:
            break
        at += 2 + length
    if frame is None:
        raise ValueError("no frame header in the JPEG stream")
    return frame


def _tiles_stated(stream: bytes, at: int) -> int:
    """The number of tiles that the header at `at` states (T.800 B.3)."""
    right, bottom, _, _, width, height, left, top = struct.unpack_from(">8I", stream, at + 8)
    return int(-(-(right - left) // width) * -(-(bottom - top) // height))


def _tiles(stream: bytes, at: int) -> int:
    """The number of tiles with a part in the stream (T.800 A.4.2)."""
    seen = set()
    at += 2
    while at + 12 <= len(stream):
        marker, length = struct.unpack_from(">HH", stream, at)
        if marker == _SOT:
            index, part = struct.unpack_from(">HI", stream, at + 4)
            seen.add(index)
            if part == 0:  # up to the end of the stream
                break
            at += part
        elif seen or marker >> 8 != 0xFF:
            break
        else:
            at += 2 + length
    return len(seen)
