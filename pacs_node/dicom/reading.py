"""Reading DICOM files that may be damaged: what pydicom raises then, and what can be read all the same."""

from __future__ import annotations

import string
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from pydicom import dcmread
from pydicom.charset import default_encoding
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.valuerep import BYTES_VR, FLOAT_VR, INT_VR, PersonName

from pacs_node.errors import DecodeError, PacsNodeError

# RuntimeError: sequences nested deeper than Python recurses, and VRs that do not exist.
_PARSE_ERRORS = (
    *(InvalidDicomError, BytesLengthException, EOFError, OSError, struct.error, zlib.error, RuntimeError),
    *(ArithmeticError, AttributeError, LookupError, TypeError, ValueError),
)


@contextmanager
def parsing(failure: Callable[[Exception], PacsNodeError]) -> Iterator[None]:
    """Turn what pydicom and decoders raise on damaged files, as far as was seen, into `failure`.

    A disk that fails, and too little memory, are not the file's fault: those errors stay what they are.
    """
    try:
        yield
    except _PARSE_ERRORS as error:
        if is_disk(error):
            raise
        raise failure(error) from error


def is_disk(error: BaseException) -> bool:
    """Whether the disk, full or away, is to blame. pydicom, too, raises OSError, but without a number."""
    return isinstance(error, OSError) and error.errno is not None


def header(path: Path) -> FileDataset:
    """The header of a stored object without its pixel data and without what is broken in it.

    Raises DecodeError where that is nothing.
    """
    with parsing(lambda error: DecodeError(f"not a readable DICOM file ({type(error).__name__})")):
        dataset = dcmread(path, stop_before_pixels=True)
    drop_broken(dataset)
    return dataset


def drop_broken(dataset: Dataset) -> None:
    """Take out the elements that cannot be read or not be written again, as if absent; in nested items too.

    Nor may one be of another kind than the standard's. pydicom reads a value when it is asked for: one broken
    element would break whatever comes by it.
    """
    drop_odd_character_set(dataset)
    for tag in list(dataset.keys()):
        try:
            with parsing(lambda error: DecodeError(type(error).__name__)):
                raw, element = dataset.get_item(tag), dataset[tag]
                if isinstance(raw, RawDataElement) and isinstance(element.value, PersonName):
                    # A letter that is none in the declared character set reads as U+FFFD; it is not to be
                    # written so: the name goes back as it came.
                    element.value.original_string = bytes(raw.value or b"").rstrip(b"\0 ")
                if not has_its_kind(element):
                    raise ValueError(f"{element.VR} is not the VR of {tag}")
                if element.VR == "SQ":
                    for item in element.value:
                        drop_broken(item)
                else:
                    encodings = cast("list[str]", dataset.original_character_set)
                    write_data_element(_nowhere(), element, encodings)
        except DecodeError:
            del dataset[tag]


def drop_odd_character_set(dataset: Dataset) -> None:
    """Take out a SpecificCharacterSet by which nothing can be read, before anything is.

    pydicom takes the name of any codec of Python for one, such as "rot13".
    """
    codecs = dataset.original_character_set
    if not all(map(_keeps_ascii, [codecs] if isinstance(codecs, str) else codecs)):
        dataset.pop("SpecificCharacterSet", None)
        is_implicit_vr, is_little_endian = dataset.original_encoding
        dataset.set_original_encoding(is_implicit_vr, is_little_endian, default_encoding)


def has_its_kind(element: DataElement) -> bool:
    """Whether it is text, number, bytes, name, tag or sequence, as the standard has it for its tag."""
    stated = dictionary_VR(element.tag).split(" or ") if dictionary_has_tag(element.tag) else [element.VR]
    return any(_kinds(element.VR) & _kinds(vr) for vr in stated)


def _keeps_ascii(codec: str) -> bool:
    try:
        return not codec or string.printable.encode(codec) == string.printable.encode()
    except (LookupError, ValueError):
        return False


def _kinds(vr: str) -> set[str]:
    if vr in ("DS", "IS"):
        return {"text", "number"}
    if vr in ("SQ", "PN", "AT"):
        return {vr}
    return {"bytes" if vr in BYTES_VR else "number" if vr in INT_VR | FLOAT_VR else "text"}


def _nowhere() -> DicomBytesIO:
    file = DicomBytesIO()
    file.is_little_endian, file.is_implicit_VR = True, False
    return file


def reason(error: BaseException) -> str:
    """An error's message on one line of bearable length."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
