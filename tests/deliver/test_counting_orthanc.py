"""Orthanc is asked how many images a study has; the quiet period is the only thing that is not real."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom.dataset import FileDataset
from support import phantom
from support.brightness import Brightness
from support.journal import Clock

from pacs_node.config import Destination, Peer, Settings, StudySettings
from pacs_node.deliver import query
from pacs_node.demo.pacs import Orthanc
from pacs_node.journal import audit, instances, studies, views
from pacs_node.journal.database import Database
from pacs_node.records import Analysis, Arrival

QUIET = 60.0
CALLING = "COUNTNODE"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(tmp_path: Path, clock: Clock) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/journal.sqlite", clock)
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def destination(orthanc: Orthanc, free_port: Callable[[], int]) -> Destination:
    value = {"AET": CALLING, "Host": "127.0.0.1", "Port": free_port()}
    orthanc.rest.put("/modalities/counting-test", value)
    there = orthanc.address
    return Destination(name="orthanc", ae_title=there.ae_title, host=there.host, port=there.port)


@pytest.fixture
def images(orthanc: Orthanc, tmp_path: Path) -> list[FileDataset]:
    images = phantom.two_views(1914, rows=64, columns=64)
    for image in images:
        image.save_as(tmp_path / "image.dcm", enforce_file_format=True)
        orthanc.upload([tmp_path / "image.dcm"])
    return images


def settings(*destinations: Destination, **peer: object) -> Settings:
    rules = StudySettings(quiet_seconds=QUIET, expected_count="cfind")
    peers = (Peer.model_validate({"name": "modality", "ae_title": "XRAY", **peer}),)
    return Settings(study=rules, destinations=destinations, peers=peers)


@pytest.fixture
def receive(database: Database, clock: Clock) -> Callable[[FileDataset], None]:
    """Register and analyze an image, and let a quarter of the quiet period pass."""

    def receive(image: FileDataset) -> None:
        arrival = Arrival(
            sha256=str(image.SOPInstanceUID)[-64:],
            size=1,
            received_at=clock.now,
            calling_ae_title="XRAY",
            called_ae_title="NODE",
            address="127.0.0.1",
            study_instance_uid=str(image.StudyInstanceUID),
            series_instance_uid=str(image.SeriesInstanceUID),
            sop_instance_uid=str(image.SOPInstanceUID),
            sop_class_uid=str(image.SOPClassUID),
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            modality=str(image.Modality),
            patient_id="P",
            skip_reason=None,
        )
        instances.register(database, [arrival], QUIET)
        claim = instances.claim_instances(database, 8)
        assert claim is not None
        failed = [Analysis(item, None, "not looked at") for item in claim.items]
        instances.finish_instances(database, claim.token, Brightness().identity, failed)
        clock.now += QUIET / 4

    return receive


def counted(database: Database) -> list[tuple[str, object]]:
    return [
        (event.event, event.details.get("complete"))
        for event in audit.events(database)
        if event.event in ("study_counted", "study_not_counted")
    ]


def test_a_complete_study_is_reported_after_a_quarter_of_the_quiet_period(
    database: Database,
    destination: Destination,
    images: list[FileDataset],
    receive: Callable[[FileDataset], None],
) -> None:
    first, second = images
    receive(first)
    assert query.count_study(settings(destination), database, CALLING)
    assert studies.claim_study(database) is None
    told = views.study(database, str(first.StudyInstanceUID))
    assert told is not None
    assert (told["expected"], told["missing"]) == (2, [second.SOPInstanceUID])
    receive(second)
    assert query.count_study(settings(destination), database, CALLING)
    assert studies.claim_study(database) is not None
    assert counted(database) == [("study_counted", False), ("study_counted", True)]
    assert not query.count_study(settings(destination), database, CALLING)


def test_the_first_of_the_studys_destinations_that_can_be_queried_is_asked(
    database: Database,
    destination: Destination,
    images: list[FileDataset],
    receive: Callable[[FileDataset], None],
) -> None:
    cloud = Destination(name="cloud", kind="stow", url="https://example.org/dicom-web")
    other = Destination(name="other", ae_title="OTHER", host="127.0.0.1", port=9)
    rules = settings(other, cloud, destination, reply_to=("cloud", "orthanc"))
    for image in images:
        receive(image)
    assert query.count_study(rules, database, CALLING)
    assert counted(database) == [("study_counted", True)]


@pytest.mark.parametrize("there", [True, False])
def test_a_pacs_that_cannot_be_asked_changes_nothing(
    database: Database,
    images: list[FileDataset],
    receive: Callable[[FileDataset], None],
    clock: Clock,
    there: bool,
) -> None:
    nobody = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=9)
    rules = settings(*([nobody] if there else []))
    for image in images:
        receive(image)
    assert query.count_study(rules, database, CALLING)
    assert not query.count_study(rules, database, CALLING)
    assert counted(database) == [("study_not_counted", None)]
    assert studies.claim_study(database) is None
    clock.now += QUIET
    assert studies.claim_study(database) is not None
