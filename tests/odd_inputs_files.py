"""Odd encodings: transfer syntaxes, fragments, damage, and files made to take all memory."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
from odd_inputs import CENTER, COLUMNS, ROWS, WIDTH, Case, as_bytes, stored, transcoded, windowed, xray
from odd_inputs_pixels import colour, eight_bits, seen_8, window
from pydicom import dcmread, dcmwrite, uid
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import encapsulate, encapsulate_extended, get_frame

CUT_OFF = "failed: the compressed image was cut off: it has no end"
CANNOT = "failed: the pixel data cannot be decoded: ..."
EIGHT = window(128, 256)
SYNTAX = "PS3.5 A.4"


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
    """A file whose meta information names another transfer syntax than the one it is in."""
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


def item(data: bytes) -> bytes:
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(data)) + data


END = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def with_items(*items: bytes, end: bytes = END, **attributes: object) -> FileDataset:
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


def patched(syntax: str, marker: bytes, at: int, size: bytes) -> FileDataset:
    """A compressed image whose stream claims another size than the header."""
    made = transcoded(xray(), syntax)
    data = bytearray(frame(made))
    start = data.index(marker) + at
    data[start : start + len(size)] = size
    made.PixelData = encapsulate([bytes(data)])
    return made


def cut(data: bytes, at: float) -> bytes:
    return data[: int(len(data) * at)]


def cut_short(syntax: str) -> FileDataset:
    made = transcoded(xray(), syntax)
    made.PixelData = encapsulate([cut(frame(made), 0.6)])
    return made


def shorter(by: int) -> FileDataset:
    made = xray()
    made.PixelData = made.PixelData[:-by]
    return made


def longer(by: int) -> FileDataset:
    made = xray()
    made.PixelData = made.PixelData + b"\0" * by
    return made


def wrong_length(change: int) -> bytes:
    """The length of the pixel data is not that of what follows."""
    data = as_bytes(xray())
    at = data.index(b"\xe0\x7f\x10\x00OW\0\0") + 8
    return data[:at] + struct.pack("<I", struct.unpack_from("<I", data, at)[0] + change) + data[at + 4 :]


def absurd(**attributes: object) -> FileDataset:
    made = xray(**attributes)
    made.PixelData = b"\0" * 1024
    return made


def deflated(*chunks: bytes) -> bytes:
    """The phantom deflated, with more deflated data after it; each chunk must end a block."""
    data = as_bytes(transcoded(xray(), "DeflatedExplicitVRLittleEndian"))
    meta = 144 + struct.unpack_from("<I", data, 140)[0]
    body = zlib.decompress(data[meta:], -zlib.MAX_WBITS)
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    # The bomb is a private element of a data set that is in order otherwise.
    private = (
        struct.pack("<HH2sH", 0x7FE1, 0x10, b"LO", 4)
        + b"BOMB"
        + struct.pack("<HH2sHI", 0x7FE1, 0x1001, b"OB", 0, len(chunks) << 20)
    )
    start = packer.compress(body + private) + packer.flush(zlib.Z_FULL_FLUSH)
    return data[:meta] + start + b"".join(chunks) + zlib.compressobj(wbits=-zlib.MAX_WBITS).flush()


def megabytes_of_nothing(count: int) -> list[bytes]:
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    return [packer.compress(b"\0" * (1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)] * count


def rle_bomb() -> FileDataset:
    """An RLE segment that goes on and on after the image (PS3.5 G)."""
    made = transcoded(xray(), "RLELossless")
    data = frame(made)
    made.PixelData = encapsulate([data + b"\x81\x00" * 500_000])
    return made


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
            tolerance=0.25,
            dcmtk=("+Wi", "1"),
        ),
        Case(
            "JPEG baseline in colour",
            f"{SYNTAX}.1: YBR_FULL_422 as a rule",
            colour_jpeg,
            "analyzed; YBR_FULL_422 image; its luminance was analyzed",
            shows=seen_8,
            tolerance=0.25,
            dcmtk=(),
        ),
        Case(
            "JPEG extended",
            f"{SYNTAX}.1: 12 bits, lossy",
            lambda: transcoded(xray(), "JPEGExtendedProcess2_4"),
            tolerance=0.25,
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
        Case("MPEG-2", "a film", lambda: called(uid.MPEG2MPML, jpeg_2000()), CANNOT),
        Case(
            "JPIP",
            "pixel data is somewhere else (PS3.5 A.6)",
            lambda: called("1.2.840.10008.1.2.4.94"),
            "failed: ...",
        ),
        Case(
            "private transfer syntax",
            "nobody else can read it",
            lambda: called("1.2.840.113619.5.2"),
            "failed: ...",
        ),
        Case(
            "transfer syntax that is none",
            "a SOP class UID",
            lambda: called(uid.CTImageStorage),
            "failed: ...",
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
            "failed: ...",
        ),
        Case(
            "uncompressed, called JPEG 2000",
            "compressed in the file meta only",
            lambda: called(uid.JPEG2000Lossless),
            "failed: ...",
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
        Case("no fragment", "the offset table only", lambda: with_items(b""), "failed: ..."),
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
    "Damage": [
        Case("pixel data too short", "an interrupted transfer", lambda: shorter(1000), "failed: ..."),
        Case("pixel data too long by a byte or two", "padding of a careless writer", lambda: longer(2)),
        Case("pixel data too long", "trailing bytes", lambda: longer(1000)),
        Case(
            "length of pixel data too large",
            "the file ends before it; all that belongs to the image is there",
            lambda: wrong_length(5000),
            dcmtk=None,
        ),
        Case(
            "length of pixel data too small",
            "more follows than it says",
            lambda: wrong_length(-5000),
            "failed: ...",
        ),
        Case("file cut in the pixel data", "a full disk", lambda: cut(as_bytes(xray()), 0.7), "failed: ..."),
        Case(
            "file cut in the header",
            "a full disk",
            lambda: cut(as_bytes(xray()), 0.005),
            "refused: 0xC000 ...",
        ),
        Case(
            "JPEG 2000 cut",
            "a full disk; decoders fill up what is missing",
            lambda: with_items(b"", cut(frame(jpeg_2000()), 0.6)),
            CUT_OFF,
        ),
        Case(
            "JPEG cut",
            "a full disk; decoders fill up what is missing",
            lambda: cut_short("JPEGLosslessProcess14_1"),
            CUT_OFF,
        ),
        Case("JPEG-LS cut", "as above", lambda: cut_short("JPEGLSLossless"), CUT_OFF),
        Case("RLE cut", "as above", lambda: cut_short("RLELossless"), "failed: ..."),
        Case(
            "no pixel data",
            "a header only",
            lambda: xray(PixelData=None),
            "failed: the object has no pixel data",
        ),
        Case("empty pixel data", "length 0", lambda: xray(PixelData=b""), "failed: the pixel data is empty"),
        Case(
            "float pixel data",
            "parametric maps only (PS3.3 C.7.6.24)",
            lambda: xray(PixelData=None, FloatPixelData=stored().astype("<f4").tobytes()),
            "failed: the object has no pixel data",
        ),
        Case(
            "pixel data elsewhere",
            "a URL instead of pixels (PS3.3 C.7.6.3)",
            lambda: xray(PixelData=None, PixelDataProviderURL="http://example.org/x"),
            "failed: the object has no pixel data",
        ),
        Case("no DICOM", "a JPEG file", lambda: b"\xff\xd8\xff\xe0" * 500, "refused: 0xC000 ..."),
        Case("no file", "empty", lambda: b"", "refused: 0xC000 ..."),
        Case(
            "damaged deflated data set",
            "zlib cannot go on",
            lambda: cut(deflated(), 0.6),
            "refused: 0xC000 ...",
        ),
    ],
    "Made to take all memory": [
        Case(
            "65535 x 65535",
            "the largest image a header can claim, in 1 KB",
            lambda: absurd(Rows=65535, Columns=65535),
            "failed: 65535 rows x 65535 columns of 16 bits are 8589672450 bytes; 1 to 268435456 are decoded",
        ),
        Case(
            "0 rows",
            "nothing",
            lambda: absurd(Rows=0),
            "failed: 0 rows x 160 columns of 16 bits are 0 bytes; 1 to 268435456 are decoded",
        ),
        Case(
            "a million frames",
            "in 1 KB",
            lambda: absurd(NumberOfFrames=10**6),
            "failed: 1000000 frames in one object; only single-frame images are analyzed",
        ),
        Case(
            "frames beyond counting",
            "a number of 12 digits",
            lambda: absurd(NumberOfFrames="999999999999"),
            "failed: 999999999999 frames in one object; only single-frame images are analyzed",
        ),
        Case(
            "JPEG 2000 stream of 60000 x 60000",
            "a header of 192 x 160, a stream that claims 7 GB",
            lambda: patched("JPEG2000Lossless", b"\xff\x51", 6, struct.pack(">II", 60000, 60000)),
            "failed: the compressed image has 60000 rows x 60000 columns x 1 samples, the header says 192 x 160 x 1",
        ),
        Case(
            "JPEG-LS stream of 65535 x 65535",
            "as above",
            lambda: patched("JPEGLSLossless", b"\xff\xf7", 5, b"\xff" * 4),
            "failed: the compressed image has 65535 rows x 65535 columns x 1 samples, the header says 192 x 160 x 1",
        ),
        Case(
            "JPEG stream of 65535 x 65535",
            "as above",
            lambda: patched("JPEGExtendedProcess2_4", b"\xff\xc1", 5, b"\xff" * 4),
            "failed: the compressed image has 65535 rows x 65535 columns x 1 samples, the header says 192 x 160 x 1",
        ),
        Case(
            "JPEG lossless stream of 65535 x 65535",
            "as above",
            lambda: patched("JPEGLosslessProcess14_1", b"\xff\xc3", 5, b"\xff" * 4),
            "failed: the compressed image has 65535 rows x 65535 columns x 1 samples, the header says 192 x 160 x 1",
        ),
        Case(
            "RLE that goes on",
            "a segment that unpacks to 64 MB behind the image",
            rle_bomb,
            dcmtk=None,
        ),
        Case(
            "deflated bomb",
            "1 MB that inflates to 1 GB (PS3.5 A.5)",
            lambda: deflated(*megabytes_of_nothing(1024)),
            "refused: 0xC000 the deflated data set is larger than 512 MiB",
        ),
        Case(
            "deflated, large",
            "16 MB deflated to nothing are nothing odd",
            lambda: deflated(*megabytes_of_nothing(16)),
        ),
    ],
}
