"""Counting, storage commitment and reconciliation of a whole node with a real PACS."""

import hashlib
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset, FileDataset
from pydicom.filereader import read_file_meta_info
from support import phantom
from support.running_node import RunningNode, WaitUntil

from pacs_node.config import load
from pacs_node.demo.pacs import MODALITY, Address, Orthanc
from pacs_node.journal import audit, views
from pacs_node.journal.database import Database, open_database
from pacs_node.operate.reconcile import reconcile

pytestmark = pytest.mark.slow

CONFIG = """
[study]
quiet_seconds = 12
expected_count = "cfind"
[[peers]]
name = "orthanc"
ae_title = "ORTHANC"
host = "127.0.0.1"
[[destinations]]
name = "orthanc"
ae_title = "ORTHANC"
host = "127.0.0.1"
port = {port}
commitment = {{ae_title = "ORTHANC", host = "127.0.0.1", port = {port}}}
"""


@pytest.fixture
def node(new_node: Callable[..., RunningNode], orthanc: Orthanc) -> RunningNode:
    """A node that Orthanc knows, but does not forward to."""
    node = new_node(CONFIG.format(port=orthanc.address.port), ae_title="PROOFNODE")
    node.start()
    address = {"AET": node.address.ae_title, "Host": "127.0.0.1", "Port": node.address.port}
    orthanc.rest.put("/modalities/proof-test", address)
    return node


def upload(orthanc: Orthanc, folder: Path, *images: FileDataset) -> None:
    for image in images:
        image.save_as(folder / "image.dcm", enforce_file_format=True)
        orthanc.upload([folder / "image.dcm"])


def content(file: bytes, folder: Path) -> str:
    """Digest of the data set without the file meta information, which each system writes anew."""
    path = folder / "object.dcm"
    path.write_bytes(file)
    length = read_file_meta_info(path).FileMetaInformationGroupLength
    # Preamble, prefix, and the group length's own element come before what it counts.
    return hashlib.sha256(file[128 + 4 + 12 + length :]).hexdigest()


def reports(orthanc: Orthanc, study: str) -> dict[str, Dataset]:
    """The SRs of a study by Orthanc's identifier."""
    objects = {identifier: orthanc.rest.dataset(identifier) for identifier in orthanc.rest.instances(study)}
    return {identifier: item for identifier, item in objects.items() if item.Modality == "SR"}


def test_counting_commitment_and_reconciliation_with_a_real_pacs(
    node: RunningNode,
    orthanc: Orthanc,
    route: Callable[[Address], None],
    tmp_path: Path,
    wait_until: WaitUntil,
) -> None:
    first, second = phantom.two_views(9111, rows=640, columns=512)
    uid = str(first.StudyInstanceUID)
    settings = load(node.storage.parent / "config.toml")
    database = Database(settings.database_url)
    today = datetime.now().astimezone().date()

    def gaps(day: date = today, fix: bool = False) -> list[tuple[str, str | None, bool]]:
        gaps = reconcile(settings, database, settings.destinations, day, day, "tester", fix)
        return [(gap.missing, gap.sop_instance_uid, gap.fixed) for gap in gaps]

    def show(study: str = uid) -> dict[str, Any]:
        return views.study(database, study) or {"reports": [], "state": "UNKNOWN"}

    def settled(reports: int, study: str = uid) -> Callable[[], bool]:
        return lambda: len(show(study)["reports"]) == reports and show(study)["state"] == "DELIVERED"

    # One image is not forwarded: the report comes, and says so.
    upload(orthanc, tmp_path, first)
    route(node.address)
    upload(orthanc, tmp_path, second)
    wait_until(settled(1), 90)
    (report,) = reports(orthanc, uid).values()
    assert report.CompletionFlag == "PARTIAL"
    output = node.run("show", uid).stdout
    assert f"1 of 2 images received, missing: {first.SOPInstanceUID}" in output
    assert "1 image of this study in the PACS was not received." in output
    assert {result["state"] for result in show()["results"]} == {"COMMITTED"}

    # It is found, and asked for; the report is amended. The results in the study are no gap.
    assert gaps() == [("image", str(first.SOPInstanceUID), False)]
    assert node.run("reconcile").returncode == 1
    assert node.run("reconcile", "--fix").returncode == 0
    wait_until(settled(2), 90)
    (amended,) = [item for item in reports(orthanc, uid).values() if "PredecessorDocumentsSequence" in item]
    assert amended.CompletionFlag == "COMPLETE"
    counted = [event.details for event in audit.events(database, uid) if event.event == "study_counted"]
    assert [(event["expected"], event["received"], event["complete"]) for event in counted] == [
        (2, 1, False),
        (2, 2, True),
    ]
    assert gaps() == []

    # A report that the PACS loses is found, and comes back byte for byte.
    (lost,) = [
        key for key, item in reports(orthanc, uid).items() if item.SOPInstanceUID == amended.SOPInstanceUID
    ]
    orthanc.rest.call("DELETE", f"/instances/{lost}")
    assert gaps() == [("result", str(amended.SOPInstanceUID), False)]
    assert gaps(fix=True) == [("result", str(amended.SOPInstanceUID), True)]
    wait_until(settled(2), 60)
    (row,) = [result for result in show()["results"] if result["sop_instance_uid"] == amended.SOPInstanceUID]
    kept = (node.storage / "files" / row["sha256"][:2] / f"{row['sha256']}.dcm").read_bytes()
    back = orthanc.rest.call("GET", f"/instances/{lost}/file")
    assert content(back, tmp_path) == content(kept, tmp_path)

    # A whole study that was never forwarded is found by its date.
    orthanc.rest.call("DELETE", f"/modalities/{MODALITY}")
    forgotten = phantom.dataset(9112, rows=640, columns=512)
    forgotten.StudyDate = "19990909"
    upload(orthanc, tmp_path, forgotten)
    day = date(1999, 9, 9)
    assert gaps(day) == [("image", str(forgotten.SOPInstanceUID), False)]
    assert gaps(day, fix=True) == [("image", str(forgotten.SOPInstanceUID), True)]
    wait_until(settled(1, str(forgotten.StudyInstanceUID)), 90)
    assert gaps(day) == []
    assert len(reports(orthanc, str(forgotten.StudyInstanceUID))) == 1
    assert audit.verify(database)[1] is None
    events = [event.event for event in audit.events(database)]
    assert events.count("reconciled") == 9
    assert events.count("images_requested") == 2
    assert events.count("result_missed") == 1
    database.close()


def test_reconcile_fails_where_the_pacs_does_not_answer(
    new_node: Callable[..., RunningNode], free_port: Callable[[], int]
) -> None:
    node = new_node(CONFIG.format(port=free_port()))
    open_database(load(node.storage.parent / "config.toml").database_url).close()
    (gap,) = node.ask("reconcile")
    assert (gap["missing"], gap["destination"], gap["fixed"]) == ("answer", "orthanc", False)
    assert "is closed" in gap["detail"]
    wrong = node.run("reconcile", "--destination", "nobody")
    assert wrong.returncode == 2
    assert "configured: orthanc" in wrong.stderr
