"""Damaged files, and files made to take all memory."""

from __future__ import annotations

import struct
import zlib
from functools import partial

from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate

from support.odd_inputs.corpus import Case, as_bytes, sequence, stored, transcoded, xray
from support.odd_inputs.encodings import cut, frame, jpeg_2000, with_items

CUT_OFF = "failed: the compressed image was cut off: it has no end"


def patched(syntax: str, marker: bytes, at: int, size: bytes) -> FileDataset:
    """A compressed image whose stream and header state different sizes."""
    made = transcoded(xray(), syntax)
    data = bytearray(frame(made))
    start = data.index(marker) + at
    data[start : start + len(size)] = size
    made.PixelData = encapsulate([bytes(data)])
    return made


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
    """A file whose pixel data is shorter or longer than its stated length."""
    return pixels_of(len(xray().PixelData) + change)


def absurd(**attributes: object) -> FileDataset:
    made = xray(**attributes)
    made.PixelData = b"\0" * 1024
    return made


def deflated(*chunks: bytes) -> bytes:
    """The phantom deflated, followed by more deflated data; each chunk must end a block."""
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


def claims(size: int) -> str:
    return (
        f"failed: the compressed image has {size} rows x {size} columns x 1 samples, "
        "the header says 192 x 160 x 1"
    )


def transcoded_to_11000(syntax: str) -> FileDataset:
    """A compressed image whose header, but not its stream, claims 11000 x 11000."""
    made = transcoded(xray(), syntax)
    made.Rows = made.Columns = 11000
    return made


def grown(syntax: str, marker: bytes, at: int, form: str) -> FileDataset:
    """A compressed image whose header and stream claim 11000 x 11000, just below MAX_BYTES."""
    made = patched(syntax, marker, at, struct.pack(form, 11000, 11000))
    made.Rows = made.Columns = 11000
    return made


def pixels_of(length: int) -> bytes:
    """The phantom with pixel data of another length."""
    data = as_bytes(xray())
    at = data.index(b"\xe0\x7f\x10\x00OW\0\0") + 8
    return data[:at] + struct.pack("<I", length) + data[at + 4 :]


def rle_bomb() -> FileDataset:
    """An RLE segment that continues far beyond the image (PS3.5 G)."""
    made = transcoded(xray(), "RLELossless")
    data = frame(made)
    made.PixelData = encapsulate([data + b"\x81\x00" * 500_000])
    return made


def private(size: int) -> FileDataset:
    made = xray()
    block = made.private_block(0x0029, "ACME 1.0", create=True)
    block.add_new(0x01, "OB", b"\x01" * size)
    block.add_new(0x02, "SQ", sequence(CodeValue="1"))
    return made


CASES = {
    "Damage": [
        Case(
            "pixel data too short",
            "an interrupted transfer",
            lambda: shorter(1000),
            "failed: the pixel data has 60440 bytes, the header says 61440",
        ),
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
            "failed: the pixel data has 56440 bytes, the header says 61440",
        ),
        Case(
            "file cut in the pixel data",
            "a full disk",
            lambda: cut(as_bytes(xray()), 0.7),
            "failed: the pixel data has 42...",
        ),
        Case(
            "file cut in the header",
            "a full disk",
            lambda: cut(as_bytes(xray()), 0.005),
            "refused: 0xC000 SOPInstanceUID, StudyInstanceUID, SeriesInstanceUID absent or empty",
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
        Case(
            "RLE cut",
            "as above",
            lambda: cut_short("RLELossless"),
            "failed: the pixel data cannot be decoded: ...",
        ),
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
        Case(
            "no DICOM",
            "a JPEG file",
            lambda: b"\xff\xd8\xff\xe0" * 500,
            "refused: 0xC000 not a readable data set: InvalidDicomError",
        ),
        Case("no file", "empty", lambda: b"", "refused: 0xC000 not a readable data set: InvalidDicomError"),
        Case(
            "damaged deflated data set",
            "zlib cannot go on",
            lambda: cut(deflated(), 0.6),
            "refused: 0xC000 not a readable data set: error",
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
            claims(60000),
        ),
        Case(
            "JPEG-LS stream of 65535 x 65535",
            "as above",
            lambda: patched("JPEGLSLossless", b"\xff\xf7", 5, b"\xff" * 4),
            claims(65535),
        ),
        Case(
            "JPEG stream of 65535 x 65535",
            "as above",
            lambda: patched("JPEGExtendedProcess2_4", b"\xff\xc1", 5, b"\xff" * 4),
            claims(65535),
        ),
        Case(
            "JPEG lossless stream of 65535 x 65535",
            "as above",
            lambda: patched("JPEGLosslessProcess14_1", b"\xff\xc3", 5, b"\xff" * 4),
            claims(65535),
        ),
        *(
            Case(
                f"{name} of 11000 x 11000",
                "header and stream agree, and there is data for 192 x 160; decoders fill up the rest",
                partial(grown, syntax, marker, at, form),
                "failed: the compressed image has too little data for its size",
            )
            for name, syntax, marker, at, form in (
                ("JPEG 2000", "JPEG2000Lossless", b"\xff\x51", 6, ">II"),
                ("JPEG", "JPEGExtendedProcess2_4", b"\xff\xc1", 5, ">HH"),
                ("lossless JPEG", "JPEGLosslessProcess14_1", b"\xff\xc3", 5, ">HH"),
            )
        ),
        Case(
            "RLE of 11000 x 11000",
            "as above",
            lambda: transcoded_to_11000("RLELossless"),
            "failed: the pixel data cannot be decoded: ...",
        ),
        Case(
            "4 GB of pixel data",
            "by its length, in 60 KB; the image is there",
            lambda: pixels_of(0xFFFFFFFE),
            dcmtk=None,
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
