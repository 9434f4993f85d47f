"""A real PACS forwards X-rays to the node and gets the results back."""

import io
from collections.abc import Callable
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from support import phantom
from support.running_node import RunningNode, WaitUntil

from pacs_node.analyze import decode, pixels
from pacs_node.demo.pacs import Address, Orthanc
from pacs_node.dicom.wrap import wrap
from pacs_node.errors import PacsNodeError

pytestmark = pytest.mark.slow

CONFIG = """
[study]
quiet_seconds = 1
[[peers]]
name = "orthanc"
ae_title = "ORTHANC"
host = "127.0.0.1"
[[destinations]]
name = "orthanc"
ae_title = "ORTHANC"
host = "127.0.0.1"
port = {port}
"""


@pytest.fixture
def node(
    new_node: Callable[..., RunningNode], orthanc: Orthanc, route: Callable[[Address], None]
) -> RunningNode:
    node = new_node(CONFIG.format(port=orthanc.address.port), ae_title="LOOPNODE")
    node.start()
    route(node.address)
    return node


def save(folder: Path, images: list[FileDataset]) -> list[Path]:
    paths = []
    for number, image in enumerate(images):
        paths.append(folder / f"{number}.dcm")
        image.save_as(paths[-1], enforce_file_format=True)
    return paths


def test_a_forwarded_study_gets_its_sr_and_scs(
    node: RunningNode, orthanc: Orthanc, tmp_path: Path, wait_until: WaitUntil
) -> None:
    images = [
        *phantom.two_views(11, fractured=True, rows=640, columns=512),
        *phantom.two_views(12, rows=640, columns=512, kind="CR", photometric="MONOCHROME1"),
    ]
    paths = save(tmp_path, images)
    orthanc.upload(paths)
    wait_until(lambda: node.is_settled(2), 60)
    for study in {image.StudyInstanceUID for image in images}:
        listed = orthanc.rest.post(
            "/tools/find", {"Level": "Series", "Query": {"StudyInstanceUID": study}, "Expand": True}
        )
        series = sorted((entry["MainDicomTags"]["Modality"], len(entry["Instances"])) for entry in listed)
        assert ("SR", 1) in series
        assert ("OT", 2) in series

        objects = [orthanc.rest.dataset(instance) for instance in orthanc.rest.instances(study)]
        (report,) = [item for item in objects if item.Modality == "SR"]
        parsed = hd.sr.srread(io.BytesIO(_encoded(report)))
        assert parsed.SeriesDescription.startswith("AI: ")
        referenced = {
            item.ReferencedSOPInstanceUID
            for evidence in parsed.CurrentRequestedProcedureEvidenceSequence
            for entry in evidence.ReferencedSeriesSequence
            for item in entry.ReferencedSOPSequence
        }
        assert referenced == {image.SOPInstanceUID for image in images if image.StudyInstanceUID == study}
        for capture in (item for item in objects if item.Modality == "OT"):
            (reference,) = capture.SourceImageSequence
            sources = dict(zip((i.SOPInstanceUID for i in images), paths, strict=True))
            _shows(capture.pixel_array, sources[reference.ReferencedSOPInstanceUID])

    # What Orthanc forwards of our own results must change nothing.
    assert all(row["state"] == "DELIVERED" for row in node.ask("studies"))
    assert "PHANTOM" not in node.log


def test_real_files_give_results_or_a_readable_reason(
    node: RunningNode, orthanc: Orthanc, data_dir: Path, tmp_path: Path, wait_until: WaitUntil
) -> None:
    sent = set()
    for path in sorted((data_dir / "dicom").iterdir()):
        header = dcmread(path, stop_before_pixels=True, force=True)
        try:
            orthanc.upload([path])
        except PacsNodeError:
            # What Orthanc cannot store it cannot forward.
            continue
        sent.add(str(header.StudyInstanceUID))
    radiographs = sorted((data_dir / "fracatlas" / "full_resolution").iterdir())[:2]
    wrapped = [wrap(path) for path in radiographs]
    orthanc.upload(save(tmp_path, wrapped))
    sent |= {image.StudyInstanceUID for image in wrapped}

    wait_until(lambda: node.is_settled(len(sent)), 180)
    studies = {row["study_instance_uid"]: row for row in node.ask("studies")}
    assert set(studies) == sent
    for uid, row in studies.items():
        detail = node.ask("show", uid)
        for item in detail["instances"]:
            if item["state"] == "ANALYZED":
                assert 0 <= item["probability"] <= 1
            else:
                assert len(item["reason"]) > 10
        if row["state"] == "DELIVERED":
            roles = {result["role"] for result in detail["results"]}
            analyzed = any(item["state"] == "ANALYZED" for item in detail["instances"])
            assert roles == ({"SR", "SC"} if analyzed else {"SR"})
        else:
            assert row["reason"]
    for image in wrapped:
        assert studies[image.StudyInstanceUID]["state"] == "DELIVERED"


def _encoded(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _shows(capture: np.ndarray, source: Path) -> None:
    """Check that the SC is the windowed source, upright and not mirrored, where the heat map is faint."""
    display = pixels.prepare(decode.read(source)).display
    size = (capture.shape[1], capture.shape[0])
    expected = np.asarray(Image.fromarray((display * 255).astype(np.uint8)).resize(size), dtype=float)
    gray = capture.astype(float).mean(axis=2)
    plain = np.ptp(capture.astype(int), axis=2) < 12
    assert plain.mean() > 0.3

    def likeness(reference: np.ndarray) -> float:
        return float(np.corrcoef(gray[plain], reference[plain])[0, 1])

    assert likeness(expected) > 0.9
    assert likeness(expected) > likeness(expected[:, ::-1]) + 0.03
    assert likeness(expected) > likeness(expected[::-1]) + 0.03
