"""Findings of `benchmarks/fuzz.py`: each of these once stopped a report or the intake."""

from __future__ import annotations

from functools import partial

from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate

from support.odd_inputs.corpus import Case, as_bytes, transcoded, xray
from support.odd_inputs.encodings import frame
from support.odd_inputs.headers import raw


def with_vr(element: bytes, vr: bytes) -> bytes:
    """The phantom with the bytes after one element's tag replaced; `element` is how the element begins."""
    data = as_bytes(xray())
    assert element in data
    return data.replace(element, element[:4] + vr, 1)


def cut_in_a_sequence() -> bytes:
    data = as_bytes(xray())
    return data[: data.index(b"\x54\0\x20\2SQ") + 30]


def cut_in_a_sequence_without_length() -> bytes:
    data = as_bytes(xray())
    at = data.index(b"\x54\0\x20\2SQ") + 8
    return data[:at] + b"\xff\xff\xff\xff" + data[at + 4 : at + 30]


def lossy_ratio() -> FileDataset:
    made = raw("LossyImageCompressionRatio", "DS", "high")
    made.LossyImageCompression = "01"
    return made


def header_last() -> bytes:
    """A file with the pixel data twice, first before most attributes that describe it."""
    data = as_bytes(xray())
    pixels, rows = data.index(b"\xe0\x7f\x10\0OW"), data.index(b"\x28\0\x10\0US")
    return data[:rows] + data[pixels:] + data[rows:]


def with_stream(syntax: str, old: bytes, new: bytes) -> FileDataset:
    """A compressed image with bytes of its stream replaced by as many others."""
    made = transcoded(xray(), syntax)
    data = frame(made)
    assert old in data
    made.PixelData = encapsulate([data.replace(old, new, 1)])
    return made


def endless_table() -> bytes:
    data = as_bytes(transcoded(xray(), "JPEG2000Lossless"))
    table = b"\xfe\xff\0\xe0\0\0\0\0"
    return data.replace(table, table[:4] + b"\xf0\xff\xff\xff", 1)


def rle_too_long() -> FileDataset:
    """An RLE image with a longer run, so that the last one exceeds the image (PS3.5 G.3.1)."""
    made = transcoded(xray(), "RLELossless")
    data = bytearray(frame(made))
    data[66] = 0x81
    made.PixelData = encapsulate([bytes(data)])
    return made


CASES = {
    "Found by fuzzing": [
        Case(
            "unknown VR of an attribute that is not needed",
            "the attribute is as if absent; it stopped the report of all images of its study",
            lambda: with_vr(b"\x08\0\x70\0LO", b"ZZ"),
            dcmtk=None,
        ),
        Case(
            "unknown VR of the window",
            "what tells how the pixels are to be seen must not be guessed",
            lambda: with_vr(b"\x28\0\x50\x10DS", b"ZZ"),
            "failed: the pixel data cannot be decoded: NotImplementedError...",
        ),
        Case(
            "file cut in a sequence of the header",
            "pydicom raises OSError; taken for the disk's, the study was tried again for ever",
            cut_in_a_sequence,
            "failed: the object has no pixel data",
        ),
        Case(
            "file cut in a sequence of undefined length",
            "pydicom raises OSError; the sender was asked to try again later, and the intake stopped",
            cut_in_a_sequence_without_length,
            "refused: 0xC000 not a readable data set: OSError",
        ),
        Case(
            "header after the pixel data",
            "elements ascend (PS3.5 7.1); the report knew neither patient nor size",
            header_last,
            "failed: elements come after the pixel data that belong before it",
        ),
        Case(
            "sequence sent as a value",
            "codes without items; they stopped the report",
            lambda: with_vr(b"\x08\0\x32\x10SQ", b"OB"),
        ),
        Case(
            "rescale sent as a sequence",
            "what tells how the pixels are to be seen must not be guessed",
            lambda: with_vr(b"\x28\0\x53\x10DS\4\x001.0 ", b"SQ\0\0\0\0\0\0"),
            "failed: the pixel data cannot be decoded: TypeError: RescaleSlope has the VR SQ",
        ),
        Case(
            "compression ratio that is no number",
            "Type 1C with lossy images (PS3.3 C.7.6.1.1.5); left out of the capture, whose making it stopped",
            lambda: as_bytes(lossy_ratio()),
        ),
        Case(
            "orientation sent as a number",
            "and so not two values (PS3.3 C.7.6.1.1.1); it stopped the report",
            lambda: with_vr(b"\x20\0\x20\0CS\4\0L\\H ", b"US\2\0\1\0"),
        ),
        Case(
            "number sent as a name",
            "no text: it could not be written as the standard has it, and stopped the report",
            lambda: with_vr(b"\x20\0\x10\0SH", b"PN"),
        ),
        Case(
            "value that cannot be written again",
            "a study date with the VR of a number and characters of no character set; it stopped the report",
            lambda: with_vr(b"\x08\0\x20\0DA\x08\x0020260105", b"IS\2\0\x80 "),
        ),
        *(
            Case(
                f"{name} with a broken marker",
                "a byte before the tables; gdcm ended the worker",
                partial(with_stream, syntax, b"\xff\xc4", b"\0\xc4"),
                "failed: the pixel data cannot be decoded: ValueError: a broken marker in the JPEG stream",
            )
            for name, syntax in (
                ("JPEG", "JPEGExtendedProcess2_4"),
                ("lossless JPEG", "JPEGLosslessProcess14_1"),
            )
        ),
        Case(
            "lossless JPEG of 144 bits",
            "an impossible precision (T.81 B.2.2); gdcm ended the worker",
            lambda: with_stream("JPEGLosslessProcess14_1", b"\xff\xc3\0\x0b\x10", b"\xff\xc3\0\x0b\x90"),
            "failed: the compressed image has 144 bits a sample, the header allocates 16",
        ),
        Case(
            "RLE segment that is too long",
            "pylibjpeg-rle panics, which is no exception, and ended the worker",
            rle_too_long,
            "failed: the pixel data cannot be decoded: PanicException: ...",
        ),
        Case(
            "basic offset table without an end",
            "its length is 4 GB, in 30 KB",
            endless_table,
            "failed: ...",
        ),
        Case(
            "several SamplesPerPixel",
            "Rows times a list is a longer list: 7 GB were taken",
            lambda: xray(SamplesPerPixel=[1, 1, 1, 1, 1, 1, 1]),
            "failed: SamplesPerPixel must be one number",
        ),
        Case(
            "UID of two values",
            "a backslash in it (PS3.5 6.4); no result could refer to it",
            lambda: raw("SeriesInstanceUID", "UI", "1.2\\3.4"),
            "refused: 0xC000 SeriesInstanceUID is not one UID of at most 128 printable characters",
        ),
        Case(
            "SOP class of another VR",
            "a text is not a UID; the intake stood still",
            lambda: with_vr(b"\x08\0\x16\0UI", b"LO"),
            "refused: 0xC000 SOPClassUID is not one UID of at most 128 printable characters",
        ),
        Case(
            "image type of another VR",
            "a number where texts belong; the intake stood still",
            lambda: raw("ImageType", "US", "AB"),
        ),
    ],
}
