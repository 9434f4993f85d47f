"""C-FIND and C-MOVE over real associations: to Orthanc, and to a PACS that answers as it is told."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import pytest
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import UID, ComprehensiveSRStorage, SecondaryCaptureImageStorage, generate_uid
from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import C_MOVE
from support import phantom
from support.scripted_pacs import listen

from pacs_node.config import ApplicationEntity as Ae
from pacs_node.config import Destination
from pacs_node.deliver import query
from pacs_node.demo.pacs import Address, Orthanc, StandIn
from pacs_node.errors import DeliveryError

XRAYS = ("CR", "DX")
CALLING = "QUERYNODE"


def own_result(image: FileDataset, sop_class: UID, modality: str) -> FileDataset:
    """Something like a result of ours: another series of the same study."""
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = sop_class
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    image.SeriesInstanceUID = generate_uid()
    image.Modality = modality
    return image


@pytest.fixture
def images() -> list[FileDataset]:
    images = phantom.two_views(4711, rows=64, columns=64)
    images[1].SeriesInstanceUID = images[0].SeriesInstanceUID
    return images


@pytest.fixture
def study(orthanc: Orthanc, images: list[FileDataset], tmp_path: Path) -> str:
    """A study of two X-rays in Orthanc, with an SR and a Secondary Capture of ours in it."""
    results = [
        own_result(phantom.two_views(4711, rows=64, columns=64)[0], SecondaryCaptureImageStorage, "OT"),
        own_result(phantom.two_views(4711, rows=64, columns=64)[1], ComprehensiveSRStorage, "SR"),
    ]
    for number, dataset in enumerate((*images, *results)):
        path = tmp_path / f"{number}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        orthanc.upload([path])
    return str(images[0].StudyInstanceUID)


@pytest.fixture
def known(orthanc: Orthanc, free_port: Callable[[], int]) -> Address:
    """Where Orthanc believes us to be."""
    address = Address(CALLING, "127.0.0.1", free_port())
    orthanc.rest.put("/modalities/query-test", {"AET": CALLING, "Host": address.host, "Port": address.port})
    return address


@pytest.fixture
def pacs(orthanc: Orthanc, known: Address) -> Iterator[query.PacsQuery]:
    there = orthanc.address
    destination = Destination(name="orthanc", ae_title=there.ae_title, host=there.host, port=there.port)
    with query.connect(destination, CALLING) as pacs:
        yield pacs


def by_series(images: list[FileDataset]) -> dict[str, list[str]]:
    series: dict[str, list[str]] = {}
    for image in images:
        series.setdefault(str(image.SeriesInstanceUID), []).append(str(image.SOPInstanceUID))
    return series


def test_orthanc_names_the_series_of_a_study_with_their_counts(
    pacs: query.PacsQuery, study: str, images: list[FileDataset]
) -> None:
    found = pacs.series(study)
    assert sorted((one.modality, one.count) for one in found) == [("DX", 2), ("OT", 1), ("SR", 1)]
    (xrays,) = [one for one in found if one.modality == "DX"]
    assert pacs.instances(study, xrays.series_instance_uid) == {i.SOPInstanceUID for i in images}


def test_our_own_results_never_count(pacs: query.PacsQuery, study: str, images: list[FileDataset]) -> None:
    assert pacs.images(study, XRAYS, by_series(images)) == (2, {})


def test_what_is_missing_is_named(pacs: query.PacsQuery, study: str, images: list[FileDataset]) -> None:
    here, other = by_series(images[:1]), images[1]
    assert pacs.images(study, XRAYS, here) == (2, {other.SeriesInstanceUID: [other.SOPInstanceUID]})
    assert pacs.images(study, ("CR",), here) == (0, {})
    assert pacs.images("1.2.3.4", XRAYS, here) == (0, {})


def test_studies_are_found_by_their_date(
    pacs: query.PacsQuery, study: str, images: list[FileDataset]
) -> None:
    text = images[0].StudyDate
    day = date(int(text[:4]), int(text[4:6]), int(text[6:]))
    assert study in pacs.studies(day, day)
    assert study not in pacs.studies(day.replace(year=day.year + 1), day.replace(year=day.year + 2))


def test_orthanc_sends_what_is_asked_for_to_us(
    pacs: query.PacsQuery, known: Address, study: str, images: list[FileDataset], tmp_path: Path
) -> None:
    here = StandIn(tmp_path / "here", Address("NOBODY", "127.0.0.1", 9), port=known.port, ae_title=CALLING)
    here.start()
    try:
        wanted = images[1]
        pacs.move(study, wanted.SeriesInstanceUID, [wanted.SOPInstanceUID], CALLING)
        assert [item.SOPInstanceUID for item in here.results(study)] == [wanted.SOPInstanceUID]
    finally:
        here.stop()


def test_a_move_to_nobody_says_so(pacs: query.PacsQuery, study: str, images: list[FileDataset]) -> None:
    image = images[0]
    with pytest.raises(DeliveryError, match=r"orthanc did not send 1 images to NOWHERE: C-MOVE status 0x"):
        pacs.move(study, image.SeriesInstanceUID, [image.SOPInstanceUID], "NOWHERE")


@dataclass
class Archive:
    """A C-FIND SCP with one DX series of two images and a report; it leaves out the counts."""

    status: int = 0x0000
    takes: tuple[UID, ...] = (query.FIND,)
    queries: list[str] = field(default_factory=list)

    def find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        level = event.identifier.QueryRetrieveLevel
        self.queries.append(level)
        if level == "SERIES":
            series = [("1.2.1", "DX"), ("1.2.2", "SR")]
            for uid, modality in series:
                yield 0xFF00, answer(SeriesInstanceUID=uid, Modality=modality)
        elif level == "IMAGE":
            for number in (1, 2):
                yield 0xFF00, answer(SOPInstanceUID=f"{event.identifier.SeriesInstanceUID}.{number}")
        if self.status:
            yield self.status, None


def move_for_ever(event: evt.Event) -> Iterator[object]:
    """Say again and again that the sub-operations go on (PS3.4 C.4.2.1.5), until the SCU hangs up."""
    pending = C_MOVE()
    pending.MessageIDBeingRespondedTo = event.request.MessageID
    pending.AffectedSOPClassUID = event.request.AffectedSOPClassUID
    pending.Status = query.PENDING
    while event.assoc.dul.is_alive() and not event.assoc.acse.is_aborted():
        event.assoc.dimse.send_msg(pending, event.context.context_id)
        threading.Event().wait(0.01)
    yield None, None


def answer(**values: str) -> Dataset:
    found = Dataset()
    for keyword, value in values.items():
        setattr(found, keyword, value)
    return found


@pytest.fixture
def archive() -> Archive:
    return Archive()


@pytest.fixture
def destination(archive: Archive) -> Iterator[Destination]:
    ae = AE(ae_title="ARCHIVE")
    for sop_class in archive.takes:
        ae.add_supported_context(sop_class)
    server = listen(ae, (evt.EVT_C_FIND, archive.find), (evt.EVT_C_MOVE, move_for_ever))
    address = Ae(ae_title="ARCHIVE", host="127.0.0.1", port=server.server_address[1])
    yield Destination(name="vna", ae_title="ELSEWHERE", host="127.0.0.1", port=9, query=address)
    server.shutdown()


def test_without_counts_the_images_themselves_are_asked_for(
    archive: Archive, destination: Destination
) -> None:
    with query.connect(destination, CALLING) as pacs:
        assert pacs.images("1.2", XRAYS, {"1.2.1": ["1.2.1.1", "1.2.1.2"]}) == (2, {})
        assert pacs.images("1.2", XRAYS, {"1.2.1": ["1.2.1.2"]}) == (2, {"1.2.1": ["1.2.1.1"]})
    assert archive.queries == ["SERIES", "IMAGE"] * 2


def test_an_answer_that_breaks_off_is_no_answer(archive: Archive, destination: Destination) -> None:
    archive.status = 0xA700
    with (
        pytest.raises(DeliveryError, match="vna gave no complete answer: C-FIND status 0xA700"),
        query.connect(destination, CALLING) as pacs,
    ):
        pacs.images("1.2", XRAYS, {})


def test_a_pacs_without_c_move_says_so(destination: Destination) -> None:
    with (
        pytest.raises(DeliveryError, match="vna does not accept C-MOVE"),
        query.connect(destination, CALLING) as pacs,
    ):
        pacs.move("1.2", "1.2.1", ["1.2.1.1"], CALLING)


@pytest.mark.parametrize("archive", [Archive(takes=(query.FIND, query.MOVE))])
def test_a_move_that_never_ends_is_given_up(
    destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query, "MOVE_SECONDS", 0.5)
    with (
        pytest.raises(DeliveryError, match="vna did not end a C-MOVE"),
        query.connect(destination, CALLING) as pacs,
    ):
        pacs.move("1.2", "1.2.1", ["1.2.1.1"], CALLING)


def test_what_cannot_be_queried_is_named() -> None:
    stow = Destination(name="cloud", kind="stow", url="https://example.org/dicom-web")
    with pytest.raises(DeliveryError, match="cloud: no AE to query"), query.connect(stow, CALLING):
        pass
    nobody = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=9)
    with pytest.raises(DeliveryError, match="is closed"), query.connect(nobody, CALLING):
        pass
