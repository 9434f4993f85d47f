"""Which compressed transfer syntaxes can be decoded here: a small image in each is decoded and compared."""

from __future__ import annotations

import base64
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DigitalXRayImageStorageForPresentation,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    RLELossless,
)

from pacs_node.analyze import decode
from pacs_node.errors import DecodeError

_SIZE = 16


def verdicts() -> Iterator[tuple[UID, str]]:
    """Each transfer syntax, and why images in it cannot be decoded; empty where they can."""
    samples = tomllib.loads(Path(__file__).with_name("samples.toml").read_text(encoding="ascii"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sample.dcm"
        for syntax, sample in samples.items():
            _write(path, UID(syntax), sample["bits"], base64.b64decode(sample["stream"]))
            expected = np.arange(_SIZE**2).reshape(_SIZE, _SIZE) << sample["bits"] - 8
            try:
                differences = np.abs(decode.read(path).pixels - expected)
                why = "" if differences.max() <= sample.get("off", 0) else "the pixels come out wrong"
            except (DecodeError, ImportError) as error:
                why = str(error)
            yield UID(syntax), why


def package(syntax: UID) -> str:
    """What `pip install` must be given for images in a transfer syntax."""
    if syntax in JPEG2000TransferSyntaxes:
        return "pylibjpeg pylibjpeg-openjpeg"
    if syntax in JPEGLSTransferSyntaxes:
        return "pyjpegls"
    return "pylibjpeg pylibjpeg-rle" if syntax == RLELossless else "python-gdcm"


def _write(path: Path, syntax: UID, bits: int, stream: bytes) -> None:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = UID("2.25.1")
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows = dataset.Columns = _SIZE
    dataset.BitsAllocated = 8 if bits == 8 else 16
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.PixelRepresentation = 0
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].VR = "OB"
    dataset.save_as(path, enforce_file_format=True)
