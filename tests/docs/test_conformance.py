"""What docs/conformance.md says of the program is what the program does."""

import re
from pathlib import Path

from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from pacs_node import __version__
from pacs_node.config import NodeSettings
from pacs_node.deliver import dimse, query
from pacs_node.dicom import event_report, reach
from pacs_node.receive import admission, scp
from pacs_node.report import sc, source, sr

TEXT = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text(encoding="utf-8")


def marked(name: str) -> str:
    found = re.search(rf"<!-- {name} -->(.*?)<!-- /", TEXT, re.DOTALL)
    assert found, name
    return found[1].strip()


def test_transfer_syntaxes_in_their_order() -> None:
    told = re.findall(r"^\| (.+) \| ([\d.]+) \|$", marked("transfer syntaxes"), re.MULTILINE)
    ours = [(str(one.name), str(one)) for one in scp.PREFERRED_TRANSFER_SYNTAXES]  # type: ignore[union-attr]
    assert told == ours


def test_implementation_and_limits() -> None:
    assert marked("class uid") == scp.IMPLEMENTATION_CLASS_UID
    assert marked("version name") == scp.IMPLEMENTATION_VERSION_NAME
    assert f"pacs-node {'.'.join(__version__.split('.')[:2])}," in TEXT
    assert re.findall(r"(\d+) s", marked("limits")) == [
        f"{seconds:.0f}"
        for seconds in (scp.REQUEST_SECONDS, scp.STALL_SECONDS, reach.CONNECT_SECONDS, dimse.ANSWER_SECONDS)
    ]
    assert f"`[node] max_pdu`, {NodeSettings().max_pdu:,} bytes" in TEXT
    assert f"`[node] max_associations`, {NodeSettings().max_associations};" in TEXT
    assert f"at {dimse.SLOWEST // 1000} kB/s" in TEXT


def test_sop_classes_and_statuses() -> None:
    for uid in (
        Verification,
        StorageCommitmentPushModel,
        StudyRootQueryRetrieveInformationModelFind,
        StudyRootQueryRetrieveInformationModelMove,
        *(event_report.PUSH_MODEL, query.FIND, query.MOVE),
    ):
        assert f"| {uid} |" in TEXT
    for status in (
        *(scp.SUCCESS, scp.OUT_OF_RESOURCES, admission.CANNOT_UNDERSTAND),
        *(admission.DOES_NOT_MATCH_SOP_CLASS, event_report.PROCESSING_FAILURE),
        *(event_report.NO_SUCH_EVENT_TYPE, event_report.INVALID_ARGUMENT_VALUE),
    ):
        assert f"| 0x{status:04X} |" in TEXT
    assert f"longer than {admission.MAX_UID_LENGTH}" in TEXT
    assert f"{admission.MAX_INFLATED >> 20} MiB" in TEXT
    assert f"at most {query.MOVE_BATCH} SOPInstanceUIDs" in TEXT


def test_what_results_carry() -> None:
    assert marked("sr series") == str(sr.SERIES_NUMBER)
    assert marked("sc series") == str(sc.SERIES_NUMBER)
    told = marked("inherited").split("has none: ")[1].rstrip(";")
    assert tuple(told.split(", ")) == source.TYPE_2
