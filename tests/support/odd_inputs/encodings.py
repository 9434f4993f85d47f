"""Odd encodings: transfer syntaxes and fragments."""

from __future__ import annotations

import io
import struct
from typing import Any

import cv2
import numpy as np
from pydicom import dcmread, dcmwrite, uid
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import encapsulate_extended, get_frame

from support.odd_inputs.corpus import CENTER, WIDTH, Case, as_bytes, stored, transcoded, windowed, xray
from support.odd_inputs.grey import item, window
from support.odd_inputs.pixels import colour, eight_bits, seen_8

EIGHT = window(128, 256)
SYNTAX = "PS3.5 A.4"
END = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def rewritten(syntax: uid.UID) -> bytes:
    """The phantom in another uncompressed transfer syntax."""
    made = xray()
    made.file_meta.TransferSyntaxUID = syntax
    if syntax == uid.ExplicitVRBigEndian:
        made.PixelData = stored().byteswap().tobytes()
    buffer = io.BytesIO()
    dcmwrite(
        buffer,
        made,
        implicit_vr=syntax == uid.ImplicitVRLittleEndian,
        little_endian=syntax != uid.ExplicitVRBigEndian,
    )
    return buffer.getvalue()


def called(syntax: str, file: Dataset | bytes | None = None) -> bytes:
    """A file whose meta information names the wrong transfer syntax."""
    data = as_bytes(file or xray())
    named, other = (
        struct.pack("<HH2sH", 2, 0x10, b"UI", len(text) + len(text) % 2) + text + b"\0" * (len(text) % 2)
        for text in (dcmread(io.BytesIO(data)).file_meta.TransferSyntaxUID.encode(), syntax.encode())
    )
    length = struct.unpack_from("<I", data, 140)[0] + len(other) - len(named)
    return data[:140] + struct.pack("<I", length) + data[144:].replace(named, other, 1)


def jpeg_2000() -> FileDataset:
    return transcoded(xray(), "JPEG2000Lossless")


def colour_jpeg() -> FileDataset:
    made = transcoded(xray(colour()), "JPEGBaselineProcess1")
    made.PhotometricInterpretation = "YBR_FULL_422"  # gdcm encodes YCbCr and does not say so
    return made


def frame(dataset: Dataset) -> bytes:
    return bytes(get_frame(dataset.PixelData, 0, number_of_frames=1))


def with_items(*items: bytes, end: bytes = END, **attributes: Any) -> FileDataset:
    """A JPEG 2000 image of these items: the basic offset table, then fragments."""
    made = jpeg_2000()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    made.PixelData = b"".join(map(item, items)) + end
    return made


def in_pieces(offsets: bytes = b"") -> FileDataset:
    data = frame(jpeg_2000())
    cut = len(data) // 3 // 2 * 2
    return with_items(offsets, data[:cut], data[cut : 2 * cut], data[2 * cut :])


def extended_offsets() -> FileDataset:
    made = jpeg_2000()
    data, offsets, lengths = encapsulate_extended([frame(made)])
    made.PixelData, made.ExtendedOffsetTable, made.ExtendedOffsetTableLengths = data, offsets, lengths
    return made


def cut(data: bytes, at: float) -> bytes:
    return data[: int(len(data) * at)]


CASES = {
    "Transfer syntaxes": [
        Case(
            "implicit VR", "the default of DICOM (PS3.5 A.1)", lambda: rewritten(uid.ImplicitVRLittleEndian)
        ),
        Case(
            "big endian",
            "retired, alive in archives (PS3.5 A.3, 2016)",
            lambda: rewritten(uid.ExplicitVRBigEndian),
        ),
        Case(
            "deflated",
            "the whole data set is (PS3.5 A.5)",
            lambda: transcoded(xray(), "DeflatedExplicitVRLittleEndian"),
        ),
        Case("RLE", "PS3.5 A.4.2", lambda: transcoded(xray(), "RLELossless")),
        Case(
            "JPEG baseline",
            f"{SYNTAX}.1: 8 bits, lossy",
            lambda: transcoded(xray(eight_bits(), **EIGHT), "JPEGBaselineProcess1"),
            shows=seen_8,
            tolerance=0.02,
            dcmtk=("+Wi", "1"),
        ),
        Case(
            "JPEG baseline in colour",
            f"{SYNTAX}.1: YBR_FULL_422 as a rule",
            colour_jpeg,
            "analyzed; YBR_FULL_422 image; its luminance was analyzed",
            shows=seen_8,
            tolerance=0.02,
            dcmtk=(),
        ),
        Case(
            "JPEG extended",
            f"{SYNTAX}.1: 8 or 12 bits, lossy; here 8",
            lambda: transcoded(xray(eight_bits(), **EIGHT), "JPEGExtendedProcess2_4"),
            shows=seen_8,
            tolerance=0.02,
        ),
        Case("JPEG lossless", f"{SYNTAX}.1: process 14", lambda: transcoded(xray(), "JPEGLosslessProcess14")),
        Case(
            "JPEG lossless, first-order prediction",
            f"{SYNTAX}.1: process 14, selection value 1, the usual",
            lambda: transcoded(xray(), "JPEGLosslessProcess14_1"),
        ),
        Case("JPEG-LS", f"{SYNTAX}.3: lossless", lambda: transcoded(xray(), "JPEGLSLossless")),
        Case(
            "JPEG-LS near-lossless",
            f"{SYNTAX}.3: off by 3 at most",
            lambda: transcoded(xray(), "JPEGLSNearLossless", lossy_error=3),
            tolerance=0.003,
        ),
        Case("JPEG 2000 lossless", f"{SYNTAX}.4", jpeg_2000, dcmtk=None),
        Case(
            "JPEG 2000",
            f"{SYNTAX}.4: lossy",
            lambda: transcoded(xray(), "JPEG2000"),
            tolerance=0.05,
            dcmtk=None,
        ),
        Case(
            "signed JPEG 2000",
            "the stream itself says signed or not",
            lambda: transcoded(
                xray(stored().astype(np.int16) - np.int16(2000), **window(CENTER - 2000, WIDTH)),
                "JPEG2000Lossless",
            ),
            dcmtk=None,
        ),
        Case(
            "MPEG-2",
            "a film",
            lambda: called(uid.MPEG2MPML, jpeg_2000()),
            "failed: images in the transfer syntax MPEG2 Main Profile / Main Level are not read",
        ),
        Case(
            "JPIP",
            "pixel data is somewhere else (PS3.5 A.6)",
            lambda: called("1.2.840.10008.1.2.4.94"),
            "failed: images in the transfer syntax JPIP Referenced are not read",
        ),
        Case(
            "private transfer syntax",
            "no other system reads it",
            lambda: called("1.2.840.113619.5.2"),
            "failed: images in the transfer syntax 1.2.840.113619.5.2 are not read",
        ),
        Case(
            "transfer syntax that is none",
            "a SOP class UID",
            lambda: called(uid.CTImageStorage),
            "failed: images in the transfer syntax CT Image Storage are not read",
        ),
        Case(
            "explicit VR called implicit",
            "converted, but not the file meta; the data set tells",
            lambda: called(uid.ImplicitVRLittleEndian),
            dcmtk=None,
        ),
        Case(
            "implicit VR called explicit",
            "converted, but not the file meta; the data set tells",
            lambda: called(uid.ExplicitVRLittleEndian, rewritten(uid.ImplicitVRLittleEndian)),
            dcmtk=None,
        ),
        Case(
            "compressed, called explicit",
            "decompressed in the file meta only",
            lambda: called(uid.ExplicitVRLittleEndian, jpeg_2000()),
            "failed: the pixel data has 30556 bytes, the header says 61440",
        ),
        Case(
            "uncompressed, called JPEG 2000",
            "compressed in the file meta only",
            lambda: called(uid.JPEG2000Lossless),
            "failed: the pixel data cannot be decoded: ...",
        ),
    ],
    "Encapsulation": [
        Case(
            "several fragments", "one frame may be in any number of them (PS3.5 A.4)", in_pieces, dcmtk=None
        ),
        Case(
            "no basic offset table",
            "its item is empty (PS3.5 A.4)",
            lambda: with_items(b"", frame(jpeg_2000())),
            dcmtk=None,
        ),
        Case(
            "wrong basic offset table",
            "points behind the end",
            lambda: in_pieces(struct.pack("<I", 99999998)),
            dcmtk=None,
        ),
        Case("extended offset table", "PS3.3 C.7.6.3.1.8", extended_offsets, dcmtk=None),
        Case(
            "no sequence delimiter",
            "the last eight bytes are missing",
            lambda: with_items(b"", frame(jpeg_2000()), end=b""),
            dcmtk=None,
        ),
        Case(
            "no fragment",
            "the offset table only",
            lambda: with_items(b""),
            "failed: the pixel data cannot be decoded: ValueError: no JPEG, JPEG-LS or JPEG 2000 stream",
        ),
        Case(
            "an empty fragment first",
            "gateways split so",
            lambda: with_items(b"", b"", frame(jpeg_2000())),
            dcmtk=None,
        ),
        Case(
            "JP2 file instead of a codestream",
            "a file header before the codestream (PS3.5 A.4.4 forbids it)",
            lambda: with_items(
                b"",
                cv2.imencode(".jp2", stored() << 4)[1].tobytes(),
                BitsStored=16,
                HighBit=15,
                **window(CENTER * 16, WIDTH * 16),
            ),
            shows=lambda: windowed(stored() << 4, CENTER * 16, WIDTH * 16),
            tolerance=0.01,
            dcmtk=None,
        ),
    ],
}
