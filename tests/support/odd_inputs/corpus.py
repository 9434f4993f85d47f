"""Odd X-rays from the field: each has a name, the reason why it is odd, and the expected outcome.

A case is a study of one or more files as the SCP would store them. Most are built from one small phantom and
must reach the classifier as `plain`. `docs/inputs.md` is generated from the cases; `tests/corpus/` runs them.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import gdcm
import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileDataset

from pacs_node.config import StudySettings
from support import phantom

ROWS, COLUMNS = 192, 160
CENTER, WIDTH = 1492.5, 2655.0

UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "ReferencedSOPInstanceUID")

Image = NDArray[np.float32]
File = Dataset | bytes


@dataclass(frozen=True, slots=True)
class Case:
    """One odd study; `does` is the expected outcome of each file, of which "..." leaves the rest open."""

    name: str
    why: str
    """The clause of the standard, or what people complain of."""
    files: Callable[[], File | Sequence[File]]
    does: str | tuple[str, ...] = "analyzed"
    """"analyzed; note; note", "skipped: reason", "failed: reason" or "refused: status and comment"."""
    shows: Callable[[], Image] | None = lambda: plain()
    """What the classifier is to be given of each analyzed image; None where only properties are known."""
    tolerance: float = 0.001
    """How far a pixel of it may be off, 0..1."""
    dcmtk: tuple[str, ...] | None = ("+Wi", "1")
    """dcm2pnm's options to render it alike; None where dcmtk cannot read it or decides otherwise."""
    reads: tuple[str, ...] = ()
    """What the report as text, or the SeriesDescription, must contain."""
    invalid: tuple[str, ...] = ()
    """Keywords of attributes whose values are not valid: repeated where they identify, else left out."""
    rules: StudySettings = field(default_factory=StudySettings)

    def contents(self) -> list[bytes]:
        """The bytes of its files."""
        made = self.files()
        return [as_bytes(file) for file in ([made] if isinstance(made, Dataset | bytes) else made)]

    @property
    def outcomes(self) -> tuple[str, ...]:
        """The expected outcome of each file."""
        return (self.does,) if isinstance(self.does, str) else self.does


@cache
def _phantom() -> FileDataset:
    made = phantom.dataset(7, fractured=True, rows=ROWS, columns=COLUMNS)
    made.WindowCenter, made.WindowWidth = CENTER, WIDTH
    return made


def stored() -> NDArray[np.uint16]:
    """The phantom's stored values, 0..4095."""
    return np.asarray(_phantom().pixel_array, np.uint16).copy()


def windowed(values: NDArray[np.generic], center: float = CENTER, width: float = WIDTH) -> Image:
    """The function LINEAR of PS3.3 C.11.2.1.2.1, implemented independently of the node."""
    x = np.asarray(values, np.float64)
    middle = ((x - (center - 0.5)) / (width - 1) + 0.5).astype(np.float32)
    low, high = center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2
    return np.where(x <= low, np.float32(0), np.where(x > high, np.float32(1), middle))


def plain() -> Image:
    """The phantom as displayed."""
    return windowed(stored())


def xray(
    pixels: NDArray[np.generic] | None = None, changes: dict[str, object] | None = None, /, **more: object
) -> FileDataset:
    """The phantom as DX, or an X-ray of these stored values; keywords set attributes, None removes one."""
    dataset = deepcopy(_phantom())
    if pixels is not None:
        dataset.Rows, dataset.Columns = pixels.shape[:2]
        dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
        dataset.HighBit = dataset.BitsStored - 1
        dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
        data = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
        dataset.PixelData = data + b"\0" * (len(data) % 2)
        dataset["PixelData"].VR = "OW" if pixels.dtype.itemsize == 2 else "OB"
        if pixels.ndim == 3:
            dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "RGB"
            dataset.PlanarConfiguration = 0
            for keyword in ("WindowCenter", "WindowWidth", "PresentationLUTShape"):
                del dataset[keyword]
    changes = (changes or {}) | more
    for keyword, value in changes.items():
        if value is None:
            dataset.pop(keyword, None)
        else:
            setattr(dataset, keyword, value)
    if changes.get("BitsStored") and "HighBit" not in changes:
        dataset.HighBit = dataset.BitsStored - 1
    dataset.file_meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", "1.2")
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", "1.2")
    return dataset


def cr(**more: object) -> FileDataset:
    """The phantom as CR, which has fewer attributes."""
    dataset = phantom.dataset(7, fractured=True, rows=ROWS, columns=COLUMNS, kind="CR")
    dataset.WindowCenter, dataset.WindowWidth = CENTER, WIDTH
    for keyword, value in more.items():
        setattr(dataset, keyword, value)
    return dataset


def as_bytes(file: File) -> bytes:
    """A data set as the bytes of a file, without a writer's corrections."""
    if isinstance(file, bytes):
        return file
    buffer = io.BytesIO()
    dcmwrite(buffer, file, enforce_file_format=False)
    return buffer.getvalue()


def transcoded(dataset: Dataset, syntax: str, *, lossy_error: int = 0) -> FileDataset:
    """The data set in a transfer syntax by gdcm's name, such as "JPEGLSLossless"."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.dcm"), Path(folder, "out.dcm")
        source.write_bytes(as_bytes(dataset))
        reader = gdcm.ImageReader()
        reader.SetFileName(str(source))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
        if lossy_error:
            codec = gdcm.JPEGLSCodec()
            codec.SetLossless(False)
            codec.SetLossyError(lossy_error)
            change.SetUserCodec(codec)
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(target))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        made = dcmread(io.BytesIO(target.read_bytes()))
    # gdcm takes every image that it writes for a new one.
    for keyword in ("SOPInstanceUID", "SOPClassUID", "ImageType"):
        setattr(made, keyword, dataset[keyword].value)
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    for keyword in ("SourceImageSequence", "DerivationDescription", "DerivationCodeSequence"):
        made.pop(keyword, None)
    return made


def sequence(**attributes: object) -> list[Dataset]:
    """A sequence of one item."""
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return [item]
