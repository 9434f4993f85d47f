"""DICOM files to stored pixel values."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import NamedTemporaryFile

import cv2
import gdcm
import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread, uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_fragments
from pydicom.multival import MultiValue
from pydicom.pixels.decoders.base import get_decoder
from pydicom.tag import Tag

from pacs_node.analyze import codestream
from pacs_node.dicom.reading import drop_broken, has_its_kind, parsing, reason
from pacs_node.errors import DecodeError, InputError

StoredValues = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.int8] | NDArray[np.int16]

MAX_BYTES = 256 << 20
"""Largest decoded image; a stitched radiograph of both legs has about 60 MB."""

KEY_ATTRIBUTES = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsStored",
    "PixelRepresentation",
    "PixelAspectRatio",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleIntercept",
    "RescaleSlope",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "PresentationLUTShape",
)
KEY_SEQUENCES = ("ModalityLUTSequence", "VOILUTSequence")

REQUIRED = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
)
_NUMBERS = tuple(keyword for keyword in REQUIRED if keyword != "PhotometricInterpretation")
_PIXEL_DATA = Tag("PixelData")
_PLUGINS = {
    **dict.fromkeys(uid.JPEGTransferSyntaxes, "gdcm"),
    # gdcm leaks the memory of a JPEG-LS image that it cannot decode.
    **dict.fromkeys(uid.JPEGLSTransferSyntaxes, "pyjpegls"),
    **dict.fromkeys(uid.JPEG2000TransferSyntaxes, "pylibjpeg"),
    uid.RLELossless: "pylibjpeg",
}


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """One image as stored."""

    header: Dataset
    """Without pixel data and broken elements."""
    pixels: StoredValues
    """(rows, columns), signed if PixelRepresentation is 1; only the bits that BitsStored declares."""
    content_key: str
    """sha256 of the pixels and the attributes that interpret them (`KEY_ATTRIBUTES`, `KEY_SEQUENCES`).

    The identity of the content: the same with a corrected header or another lossless transfer syntax.
    """
    notes: tuple[str, ...] = ()
    """Irregularities, and how they were interpreted."""


def read(path: Path) -> Decoded:
    """Decode a DICOM file of a single frame in any usual transfer syntax.

    Raises DecodeError if the file is not DICOM or its pixel data is absent, too short, too large or broken;
    InputError unless it is a frame of 8 or 16 bits a sample in gray, RGB or YBR. The messages quote only
    values that describe the pixels.
    """
    with warnings.catch_warnings():
        # Warnings of pydicom quote values, which may identify the patient.
        warnings.simplefilter("ignore")
        with parsing(lambda error: DecodeError(f"not a readable DICOM file ({type(error).__name__})")):
            dataset = dcmread(path)
        with parsing(lambda error: DecodeError(f"the pixel data cannot be decoded: {reason(error)}")):
            _check(dataset)
            values, notes = _stored_values(_frame(dataset), dataset)
            key = _content_key(values, dataset)
        tags = list(dataset.keys())
        if any(tag < _PIXEL_DATA for tag in tags[tags.index(_PIXEL_DATA) :]):
            # Readers of the header stop at the pixel data and would miss these elements.
            raise DecodeError("elements come after the pixel data that belong before it")
        # Only now: a broken element that describes the pixels has failed the image above.
        drop_broken(dataset)
    del dataset.PixelData
    return Decoded(header=dataset, pixels=values, content_key=key, notes=notes)


def _check(dataset: Dataset) -> None:
    """Refuse images that cannot or must not be decoded, before memory is allocated."""
    if "PixelData" not in dataset:
        raise DecodeError("the object has no pixel data")
    if not dataset.PixelData:
        raise DecodeError("the pixel data is empty")
    if "TransferSyntaxUID" not in dataset.file_meta:
        raise DecodeError("the file does not state its transfer syntax")
    absent = [keyword for keyword in REQUIRED if dataset.get(keyword) in (None, "")]
    if absent:
        raise DecodeError(f"{', '.join(absent)} absent or empty")
    if several := [keyword for keyword in _NUMBERS if not isinstance(dataset[keyword].value, int)]:
        # A list of numbers times a number would be a longer list.
        raise DecodeError(f"{', '.join(several)} must be one number")
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise InputError(
            f"{dataset.NumberOfFrames} frames in one object; only single-frame images are analyzed"
        )
    if dataset.BitsAllocated not in (8, 16) or not 1 <= dataset.BitsStored <= dataset.BitsAllocated:
        raise InputError(
            f"BitsAllocated {dataset.BitsAllocated} with BitsStored {dataset.BitsStored}; "
            "8 or 16 bits are analyzed, with no more stored than allocated"
        )
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        raise InputError("PALETTE COLOR; only gray, RGB and YBR images are analyzed")
    if dataset.SamplesPerPixel != 1 and dataset.PixelRepresentation:
        raise InputError("colour with signed values; only unsigned colour is analyzed")
    size = dataset.Rows * dataset.Columns * dataset.SamplesPerPixel * dataset.BitsAllocated // 8
    if not 0 < size <= MAX_BYTES:
        raise DecodeError(
            f"{dataset.Rows} rows x {dataset.Columns} columns of {dataset.BitsAllocated} bits are {size} "
            f"bytes; 1 to {MAX_BYTES} are decoded"
        )


def _frame(dataset: Dataset) -> NDArray[np.integer]:
    """The frame: (rows, columns), or (rows, columns, 3) in RGB; pydicom clears the bits above BitsStored."""
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise DecodeError(f"images in the transfer syntax {syntax.name} are not read") from None
    if syntax.is_encapsulated:
        stream = b"".join(_fragments(dataset))
        if syntax != uid.RLELossless:
            _check_stream(stream, dataset)
        dataset.PixelData = encapsulate([stream], has_bot=False)
    else:
        _check_length(dataset)
    if syntax == uid.JPEGExtended12Bit and dataset.BitsStored > 8:
        return _twelve_bit_jpeg(dataset)
    below = 0 if syntax.is_encapsulated else _bits_below(dataset)
    dataset.BitsStored += below
    try:
        array, _ = decoder.as_array(dataset, index=0, decoding_plugin=_PLUGINS.get(syntax, ""))
    except BaseException as error:
        # pylibjpeg-rle panics if a segment is too long; that is not an Exception and would end the worker.
        if type(error).__name__ == "PanicException":
            raise DecodeError(f"the pixel data cannot be decoded: {reason(error)}") from error
        raise
    dataset.BitsStored -= below
    return array >> below


def _fragments(dataset: Dataset) -> Iterator[bytes]:
    """All fragments of the single frame, without the basic offset table (PS3.5 A.4)."""
    fragments = generate_fragments(BytesIO(dataset.PixelData))
    next(fragments, None)
    return fragments


def _check_stream(stream: bytes, dataset: Dataset) -> None:
    """Refuse a compressed image of another size than the header's, and one that was cut off or lacks parts.

    Decoders allocate memory for the size in the stream, and silently fill in missing data.
    """
    rows, columns, samples, bits = codestream.size(stream)
    if (rows, columns, samples) != (dataset.Rows, dataset.Columns, dataset.SamplesPerPixel):
        raise DecodeError(
            f"the compressed image has {rows} rows x {columns} columns x {samples} samples, the header says "
            f"{dataset.Rows} x {dataset.Columns} x {dataset.SamplesPerPixel}"
        )
    if bits > dataset.BitsAllocated:
        raise DecodeError(
            f"the compressed image has {bits} bits a sample, the header allocates {dataset.BitsAllocated}"
        )
    if not codestream.is_complete(stream):
        raise DecodeError("the compressed image was cut off: it has no end")
    if not codestream.has_data_for_all(stream):
        raise DecodeError("the compressed image has too little data for its size")


def _check_length(dataset: Dataset) -> None:
    """Refuse pixel data that is too short, or long enough for two images."""
    stated = dataset.Rows * dataset.Columns * dataset.SamplesPerPixel * dataset.BitsAllocated // 8
    if str(dataset.PhotometricInterpretation).endswith("422"):
        stated = stated * 2 // 3
    if not stated <= len(dataset.PixelData) < max(2 * stated, 4):
        raise DecodeError(f"the pixel data has {len(dataset.PixelData)} bytes, the header says {stated}")


def _bits_below(dataset: Dataset) -> int:
    """The number of unused bits below left-aligned pixels, by HighBit (PS3.5 8.1.1)."""
    high = dataset.get("HighBit")
    inside = isinstance(high, int) and dataset.BitsStored <= high < dataset.BitsAllocated
    return high + 1 - dataset.BitsStored if inside else 0


def _twelve_bit_jpeg(dataset: Dataset) -> NDArray[np.integer]:
    """JPEG Extended of 12 bits, which gdcm decodes from a file, but not through pydicom's plug-in.

    The file has only the image, because gdcm ends the process on a header that it does not understand.
    """
    image = Dataset()
    image.SOPClassUID, image.SOPInstanceUID = uid.SecondaryCaptureImageStorage, "1.2"
    image.PhotometricInterpretation = "MONOCHROME2"
    for keyword in _NUMBERS:
        setattr(image, keyword, dataset[keyword].value)
    image.HighBit = image.BitsStored - 1
    image.PixelData = dataset.PixelData
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    with NamedTemporaryFile(suffix=".dcm") as file:
        image.save_as(file.name, enforce_file_format=True)
        reader = gdcm.ImageReader()
        reader.SetFileName(file.name)
        if not reader.Read():
            raise DecodeError("gdcm cannot decode the JPEG Extended stream")
        buffer = reader.GetImage().GetBuffer().encode("utf-8", "surrogateescape")
    dtype = np.int16 if dataset.PixelRepresentation else np.uint16
    return np.frombuffer(buffer, dtype).reshape(dataset.Rows, dataset.Columns)


def _stored_values(frame: NDArray[np.integer], dataset: Dataset) -> tuple[StoredValues, tuple[str, ...]]:
    """The frame in gray, and notes on irregularities."""
    if frame.ndim == 3:
        gray: StoredValues = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY).astype(frame.dtype)
        return gray, (f"{dataset.PhotometricInterpretation} image; its luminance was analyzed",)
    notes = []
    if not dataset.file_meta.TransferSyntaxUID.is_encapsulated and _bits_below(dataset):
        notes.append(
            f"HighBit {dataset.HighBit}: the {_bits_below(dataset)} bits below the image were left out"
        )
    elif dataset.get("HighBit") != dataset.BitsStored - 1:
        notes.append(f"HighBit is not BitsStored - 1 = {dataset.BitsStored - 1}; it was taken as that")
    values: StoredValues = frame.astype(frame.dtype.newbyteorder("="))
    return values, tuple(notes)


def _content_key(values: StoredValues, dataset: Dataset) -> str:
    for keyword in KEY_ATTRIBUTES:
        if keyword in dataset and not has_its_kind(dataset[keyword]):
            raise TypeError(f"{keyword} has the VR {dataset[keyword].VR}")
    interpretation: dict[str, object] = {
        keyword: _canonical(dataset[keyword].value)
        for keyword in KEY_ATTRIBUTES
        if dataset.get(keyword) not in (None, "")
    }
    for keyword in KEY_SEQUENCES:
        interpretation[keyword] = [
            {
                element.keyword: _canonical(element.value)
                for element in item
                if element.keyword.startswith("LUTD")
            }
            for item in dataset.get(keyword) or ()
        ]
    digest = hashlib.sha256(
        json.dumps([interpretation, values.shape, values.dtype.str], sort_keys=True).encode()
    )
    digest.update(values.tobytes())
    return digest.hexdigest()


def _canonical(value: object) -> object:
    """A value in a form that does not depend on transfer syntax or number format."""
    if isinstance(value, bytes):
        return [int(number) for number in np.frombuffer(value[: len(value) // 2 * 2], "<u2")]
    if isinstance(value, (MultiValue, list, tuple)):
        return [_canonical(item) for item in value]
    try:
        return float(str(value))
    except ValueError:
        return str(value)
