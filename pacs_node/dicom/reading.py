"""Reads DICOM files that may be damaged: pydicom's errors become one kind, broken elements are dropped."""

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
    """Turn the errors that pydicom and decoders raise on damaged files into `failure`.

    Errors of the disk and of memory are not the file's fault and pass unchanged.
    """
    try:
        yield
    except _PARSE_ERRORS as error:
        if is_disk(error):
            raise
        raise failure(error) from error


def is_disk(error: BaseException) -> bool:
    """Whether the disk (full or unavailable) is to blame. pydicom raises OSError too, but without errno."""
    return isinstance(error, OSError) and error.errno is not None


def header(path: Path) -> FileDataset:
    """The header of a stored object without pixel data and broken elements.

    Raises DecodeError if it cannot be read at all.
    """
    with parsing(lambda error: DecodeError(f"not a readable DICOM file ({type(error).__name__})")):
        dataset = dcmread(path, stop_before_pixels=True)
    drop_broken(dataset)
    return dataset


def drop_broken(dataset: Dataset) -> None:
    """Remove elements that cannot be read or rewritten, or have a wrong kind of VR, also in nested items.

    pydicom parses a value on access, so one broken element would fail at any later use.
    """
    drop_odd_character_set(dataset)
    for tag in list(dataset.keys()):
        try:
            with parsing(lambda error: DecodeError(type(error).__name__)):
                raw, element = dataset.get_item(tag), dataset[tag]
                if isinstance(raw, RawDataElement) and isinstance(element.value, PersonName):
                    # A byte outside the declared character set reads as U+FFFD, which must not be written:
                    # the name is written as received.
                    element.value.original_string = bytes(raw.value or b"").rstrip(b"\0 ")
                if not has_its_kind(element):
                    raise ValueError(f"{element.VR} is not the VR of {tag}")
                if element.VR == "SQ":
                    for item in element.value:
                        drop_broken(item)
                else:
                    buffer = DicomBytesIO()
                    buffer.is_little_endian, buffer.is_implicit_VR = True, False
                    encodings = cast("list[str]", dataset.original_character_set)
                    write_data_element(buffer, element, encodings)
        except DecodeError:
            del dataset[tag]


def drop_odd_character_set(dataset: Dataset) -> None:
    """Remove a SpecificCharacterSet that cannot be used, before any text is read.

    pydicom accepts the name of any Python codec, such as "rot13".
    """
    codecs = dataset.original_character_set
    if not all(map(_keeps_ascii, [codecs] if isinstance(codecs, str) else codecs)):
        dataset.pop("SpecificCharacterSet", None)
        is_implicit_vr, is_little_endian = dataset.original_encoding
        dataset.set_original_encoding(is_implicit_vr, is_little_endian, default_encoding)


def has_its_kind(element: DataElement) -> bool:
    """Whether it is text, number, bytes, name, tag or sequence as the standard requires for its tag."""
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


def reason(error: BaseException) -> str:
    """An error's kind and message on one line of at most 200 characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
