"""The logs of the real processes: every line names its role and study, and no patient."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, AllStoragePresentationContexts, evt
from support import phantom
from support.model_packages import write_untrained
from support.running_node import RunningNode, WaitUntil
from support.scripted_pacs import listen

pytestmark = pytest.mark.slow

NAME, ID, BORN = "SCHADENBERG^THERESIA", "QX-ZWIRN-PAT", "19471130"
TELLING = ("SCHADENBERG", "THERESIA", "schadenberg", "ZWIRN", BORN, "1947-11-30")
CONFIG = """
[study]
quiet_seconds = 0.5
[model]
path = "{model}"
[web]
port = 0
[log]
format = "json"
[[destinations]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {port}
"""


@pytest.fixture
def pacs_port() -> Iterator[int]:
    """A PACS whose first answers are failures that quote the patient."""
    calls = count()

    def on_store(event: evt.Event) -> Dataset:
        answer = Dataset()
        answer.Status = (0xA700, 0x0110, 0xC001)[number] if (number := next(calls)) < 3 else 0x0000
        answer.ErrorComment = f"{NAME} {ID} is unknown"
        return answer

    ae = AE(ae_title="PACS")
    ae.supported_contexts = AllStoragePresentationContexts
    server = listen(ae, (evt.EVT_C_STORE, on_store))
    yield server.server_address[1]
    server.shutdown()


def telling(seed: int, **changes: object) -> FileDataset:
    image = phantom.dataset(seed, rows=128, columns=96)
    image.PatientName, image.PatientID, image.PatientBirthDate = NAME, ID, BORN
    for keyword, value in changes.items():
        setattr(image, keyword, value)
    return image


def images() -> list[FileDataset]:
    whole = telling(1, ImageComments=NAME)
    truncated = telling(2)
    truncated.PixelData = truncated.PixelData[:999]
    first, other = telling(3), telling(4, PatientID=f"{ID}-2")
    other.StudyInstanceUID = first.StudyInstanceUID
    odd = telling(5, Rows=0, BodyPartExamined=NAME[:16], StationName=NAME[:16], Modality="CR")
    nameless = telling(6, StudyInstanceUID="", SOPInstanceUID=generate_uid())
    return [whole, truncated, first, other, odd, nameless]


def test_log_lines_name_the_study_and_never_the_patient(
    new_node: Callable[..., RunningNode], pacs_port: int, tmp_path: Path, wait_until: WaitUntil
) -> None:
    node = new_node(CONFIG.format(port=pacs_port, model=write_untrained(tmp_path / "model")))
    node.start()
    ae = AE(ae_title="SENDER")
    sent = images()
    for sop_class in {image.SOPClassUID for image in sent}:
        ae.add_requested_context(sop_class, ExplicitVRLittleEndian)
    association = ae.associate("127.0.0.1", node.address.port)
    statuses = [association.send_c_store(image).Status for image in sent]
    association.release()
    assert statuses[:-1] == [0] * (len(sent) - 1)
    assert statuses[-1] != 0
    studies = {str(image.StudyInstanceUID) for image in sent[:-1]}
    wait_until(lambda: node.is_settled(len(studies)), 120)
    assert node.stop() == 0

    for word in TELLING:
        assert word not in node.log
    lines = [json.loads(line) for line in node.log.splitlines()]
    assert all(line["role"] and line["pid"] for line in lines)
    assert {line["role"] for line in lines} >= {"receive", "worker", "deliver", "housekeep"}
    of_studies = ("received", "analyzed", "reported", "delivery", "study_failed")
    assert {line["event"] for line in lines} >= {*of_studies, "store_refused"}
    for line in lines:
        if line["event"] in of_studies:
            assert line["study_instance_uid"] in studies, line
    logged = {(line["role"], line.get("study_instance_uid")) for line in lines}
    assert {("receive", study) for study in studies} <= logged
    assert {("worker", study) for study in studies} <= logged
    refused = [line for line in lines if line["event"] == "delivery" and line["status"]]
    assert {line["status"] for line in refused} >= {0xA700, 0x0110, 0xC001}
    assert {line["comment"] for line in refused} == {None}
