"""What the page of a study says and does, for whom, and what of it is written down."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.sr.coding import Code
from pydicom.uid import UID
from support.report_studies import MODEL
from support.web.web_bench import BOX, COLUMNS, PATIENT, PATIENT_ID, ROWS, WebBench, study

from pacs_node.config import ValidationSettings
from pacs_node.dicom import reading
from pacs_node.journal import feedback, views
from pacs_node.operate import validation
from pacs_node.records import DeliveryState
from pacs_node.report.sr import as_text
from pacs_node.web import images
from pacs_node.web.users import Role

NAMES = [*PATIENT.split("^"), PATIENT_ID]


def headline(page: str) -> str:
    return re.search(r'class="headline">([^<]*)<', page)[1]  # type: ignore[index]


def test_the_report_is_told_in_its_own_words(bench: WebBench, uid: str) -> None:
    page = bench.client(Role.RADIOLOGIST).get(f"/studies/{uid}").text
    assert headline(page) == "AI: Fracture suspected, right wrist, 87 %"
    summary = views.study(bench.database, uid)["reports"][0]["summary"]  # type: ignore[index]
    assert summary in page
    assert "Research use only. Not for diagnosis." in page
    for name in (*PATIENT.split("^"), PATIENT_ID, "1980-01-01", "PHA000021"):
        assert name in page
    assert "Image Library" in page, "the report's text"
    assert "0.8700" not in page


def test_a_negative_answer_says_that_it_does_not_exclude_a_fracture(bench: WebBench) -> None:
    uid = bench.receive(*study(fractured=False))
    bench.report(0.1, 0.2)
    page = bench.client(Role.VIEWER).get(f"/studies/{uid}").text
    assert headline(page) == f"AI: no fracture suspected. {MODEL.negative_caveat}"


def test_the_page_uses_the_words_of_the_model(bench: WebBench) -> None:
    bench.model.model = replace(
        MODEL,
        id="pneumonia-1",
        name="Pneumonia",
        finding=Code("233604007", "SCT", "Pneumonia"),
        positive_phrase="Pneumonia suspected",
        negative_phrase="no pneumonia suspected",
        negative_caveat="Does not exclude pneumonia.",
    )
    positive, negative = bench.receive(*study(40)), bench.receive(*study(41))
    bench.report(0.1, 0.9, 0.2, 0.3)
    client = bench.client(Role.RADIOLOGIST)
    page = client.get(f"/studies/{positive}").text
    assert headline(page) == "AI: Pneumonia suspected, right wrist, 90 %"
    assert "<legend>Pneumonia</legend>" in page
    listed = client.get(f"/studies/{positive}/images").json()
    assert [image["verdict"].partition(",")[0] for image in listed] == [
        "Pneumonia suspected",
        "no pneumonia suspected",
    ]
    other = client.get(f"/studies/{negative}").text
    assert headline(other) == "AI: no pneumonia suspected. Does not exclude pneumonia."
    worklist = client.get("/").text
    for text in (page, other, worklist):
        assert "racture" not in text


def test_silence_never_reads_as_normal(bench: WebBench) -> None:
    whole, broken = study(30), study(31)
    waiting = bench.receive(*whole)
    page = bench.client(Role.VIEWER).get(f"/studies/{waiting}").text
    assert headline(page) == "IN PROGRESS: not reported yet"
    assert "2 of 2 objects wait to be analyzed" in page
    for image in broken:
        image.Rows *= 2
    failed = bench.receive(*broken)
    skipped = study(32)
    for image in skipped:
        image.ImageType = ["DERIVED", "SECONDARY"]
    nothing = bench.receive(*skipped)
    bench.report(0.1, 0.1)
    for uid in (failed, nothing):
        page = bench.client(Role.VIEWER).get(f"/studies/{uid}").text
        assert headline(page).startswith("NOT ANALYZED: "), headline(page)
        assert "no fracture" not in page.lower()
    # One image of two could not be read: the answer says so.
    mixed = study(33)
    mixed[0].Rows *= 2
    partly = bench.receive(*mixed)
    bench.report(0.1)
    page = bench.client(Role.VIEWER).get(f"/studies/{partly}").text
    assert "1 of 2 objects could not be analyzed." in page
    assert "1 of 2 X-rays analyzed" in headline(page)


def test_after_a_late_image_the_old_answer_is_called_old(bench: WebBench, uid: str) -> None:
    late = study()[0]
    late.SOPInstanceUID = late.file_meta.MediaStorageSOPInstanceUID = UID("2.25.4711")
    bench.receive(late)
    page = bench.client(Role.VIEWER).get(f"/studies/{uid}").text
    assert headline(page) == "IN PROGRESS: a new report is being made"
    assert re.search(r"The report of [-\d: ]+: AI: Fracture suspected", page)


def test_who_may_not_see_patients_sees_everything_else(bench: WebBench, uid: str) -> None:
    image = bench.sources(uid)[0]
    said = {
        "label": "positive",
        "image": image,
        "comment": "Anna Bertha's ring",
        "region": "[[1,1],[9,1],[9,9]]",
    }
    assert bench.client(Role.RADIOLOGIST).post(f"/studies/{uid}/labels", data=said).status_code == 303
    viewer = bench.client(Role.VIEWER)
    page = viewer.get(f"/studies/{uid}").text
    parts = [viewer.get(f"/studies/{uid}/parts/{name}").text for name in ("answer", "record", "labels")]
    for text in (page, *parts):
        for secret in (*NAMES, "ring", "1980-01-01", "19800101", "PHA000021", "canvas", "/images"):
            assert secret not in text, secret
    for seen in ("Fracture suspected, 87 %", "DELIVERED", "PENDING", "analyzed", "feedback", "Image Library"):
        assert seen in page or seen == "DELIVERED", seen
    for kind in ("", f"/{image}/pixels", f"/{image}/heat", f"/{image}/thumbnail"):
        assert viewer.get(f"/studies/{uid}/images{kind}").status_code == 403
    assert viewer.post(f"/studies/{uid}/labels", data=said).status_code == 403


def test_a_broken_element_breaks_no_page(bench: WebBench) -> None:
    image = study()[0]
    image.add_new("SharedFunctionalGroupsSequence", "LO", "no sequence")
    uid = bench.receive(image)
    bench.report(0.9)
    client = bench.client(Role.RADIOLOGIST)
    assert "right wrist" in headline(client.get(f"/studies/{uid}").text)
    (listed,) = client.get(f"/studies/{uid}/images").json()
    assert client.get(listed["pixels"]).status_code == 200


def test_a_request_reads_each_header_once(bench: WebBench, monkeypatch: pytest.MonkeyPatch) -> None:
    uid = bench.receive(*study())
    bench.report(0.1, 0.2)
    images_read: list[Path] = []
    read = reading.header

    def counted(path: Path) -> FileDataset:
        images_read.append(path)
        return read(path)

    client = bench.client(Role.RADIOLOGIST)
    (listed, _) = client.get(f"/studies/{uid}/images").json()
    monkeypatch.setattr(reading, "header", counted)
    for address, count in ((f"/studies/{uid}/images", 2), (listed["pixels"], 1), (listed["thumbnail"], 1)):
        images_read.clear()
        assert client.get(address).status_code == 200
        assert len(images_read) == count, address


def test_a_report_s_text_names_no_patient(bench: WebBench, uid: str) -> None:
    sha256 = views.study(bench.database, uid)["reports"][0]["sr_sha256"]  # type: ignore[index]
    document = dcmread(bench.files.path(sha256))
    assert document.PatientName == PATIENT
    assert not [name for name in NAMES if name in as_text(document)]


def test_actions_are_for_administrators_who_confirm(bench: WebBench, uid: str) -> None:
    for what in ("retry", "amend", "reanalyze"):
        address = f"/studies/{uid}/actions/{what}"
        for who in (Role.VIEWER, Role.RADIOLOGIST):
            assert bench.client(who).post(address, data={"confirm": "yes"}).status_code == 403
            assert f"actions/{what}" not in bench.client(who).get(f"/studies/{uid}").text
        assert bench.client(Role.ADMIN).post(address).status_code == 400
        assert bench.client(None).post(address, data={"confirm": "yes"}).status_code == 401
        assert bench.client(Role.ADMIN).get(address).status_code == 405
    assert bench.events("retried") == bench.events("reanalyzed") == []
    assert bench.client(Role.ADMIN).post(f"/studies/{uid}/actions/delete").status_code == 404


def test_what_there_is_not_is_not_found(bench: WebBench, uid: str) -> None:
    other = bench.receive(*study(30))
    bench.report(0.1, 0.1)
    client = bench.client(Role.ADMIN)
    assert client.get("/studies/1.2.3").status_code == 404
    assert client.get("/studies/1.2.3/images").status_code == 404
    assert client.get(f"/studies/{uid}/parts/users").status_code == 404
    # An image of another study, under this one's address.
    strange = bench.sources(other)[0]
    for kind in ("pixels", "heat", "thumbnail"):
        assert client.get(f"/studies/{uid}/images/{strange}/{kind}").status_code == 404
    for image in (strange, "1.2.3"):
        said = {"label": "positive", "image": image}
        assert client.post(f"/studies/{uid}/labels", data=said).status_code == 404
    assert feedback.every(bench.database) == []


def test_each_look_at_a_patient_is_written_down_once(bench: WebBench, uid: str) -> None:
    bench.client(Role.VIEWER).get(f"/studies/{uid}")
    assert bench.events("study_viewed") == []
    client = bench.client(Role.RADIOLOGIST)
    client.get(f"/studies/{uid}")
    for image in [one["uid"] for one in client.get(f"/studies/{uid}/images").json()]:
        assert client.get(f"/studies/{uid}/images/{image}/pixels").status_code == 200
        assert client.get(f"/studies/{uid}/images/{image}/thumbnail").status_code == 200
    client.get(f"/studies/{uid}/parts/record")
    (event,) = bench.events("study_viewed")
    assert (event.study_instance_uid, event.details) == (uid, {"who": "radiologist"})
    client.get(f"/studies/{uid}")
    assert len(bench.events("study_viewed")) == 2
    # Who goes around the page looks all the same.
    image = client.get(f"/studies/{uid}/images").json()[0]["uid"]
    bench.client(Role.ADMIN).get(f"/studies/{uid}/images/{image}/pixels")
    assert [event.details["who"] for event in bench.events("study_viewed")][2:] == ["admin"]
    assert "study viewed" in client.get(f"/studies/{uid}/parts/record").text


def test_the_worst_image_comes_first_and_each_says_its_side(bench: WebBench) -> None:
    first, second = study(laterality="L")
    first.ImageLaterality = ""
    uid = bench.receive(first, second)
    bench.report(0.3, 0.9)
    listed = bench.client(Role.RADIOLOGIST).get(f"/studies/{uid}/images").json()
    assert [one["uid"] for one in listed] == [second.SOPInstanceUID, first.SOPInstanceUID]
    assert [one["marker"] for one in listed] == ["L", "side not stated"]
    assert [one["verdict"] for one in listed] == [
        "Fracture suspected, 90 % (threshold 50 %)",
        "no fracture suspected, 30 % (threshold 50 %)",
    ]
    words = listed[0]["text"]
    assert words.startswith(
        "Series 2 image 1, LL, left wrist, L: Fracture suspected, 90 %".replace("S", "s", 1)
    )
    (region,) = listed[0]["regions"]
    columns = [x for x, _ in region["points"]]
    assert f"columns {min(columns):.0f} to {max(columns):.0f}" in words


def picture(client: httpx.Client, address: str) -> NDArray[np.uint8]:
    answer = client.get(address)
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def greys(bench: WebBench, listed: dict[str, object]) -> NDArray[np.float64]:
    """The pixels as the viewer gets them, 0..1."""
    answer = bench.client(Role.RADIOLOGIST).get(str(listed["pixels"]))
    assert answer.headers["Cache-Control"] == "no-store"
    shape = (int(str(listed["height"])), int(str(listed["width"])))
    return np.frombuffer(answer.content, "<u2").reshape(shape) / images.LEVELS


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_pixels_are_those_of_the_display_upright_and_not_inverted(bench: WebBench, photometric: str) -> None:
    from support import phantom

    image = phantom.dataset(5, rows=ROWS, columns=COLUMNS, photometric=photometric)  # type: ignore[arg-type]
    uid = bench.receive(image)
    bench.report(0.2)
    (listed,) = bench.client(Role.RADIOLOGIST).get(f"/studies/{uid}/images").json()
    (received,) = (one for one in views.study(bench.database, uid)["instances"])  # type: ignore[index]
    display = bench.display(received["sha256"])
    sent = greys(bench, listed)
    assert (listed["rows"], listed["columns"]) == (listed["height"], listed["width"]) == display.shape
    assert np.abs(sent - display).max() <= 0.5 / images.LEVELS + 1e-6
    for wrong in (display[::-1], display[:, ::-1], 1 - display):
        assert np.abs(sent - wrong).mean() > 0.02
    small = picture(bench.client(Role.RADIOLOGIST), listed["thumbnail"])
    assert max(small.shape) == images.THUMBNAIL
    whole = np.asarray(
        Image.fromarray((display * 255).astype(np.uint8)).resize(small.shape[::-1], Image.Resampling.BOX)
    )
    assert np.abs(whole.astype(int) - small).mean() < 2


def large(image: FileDataset) -> FileDataset:
    """An image larger than what is sent, with pixels that are not square."""
    stored = np.repeat(np.repeat(image.pixel_array, 5, axis=0), 4, axis=1)
    image.Rows, image.Columns = stored.shape
    image.PixelData = stored.tobytes()
    image.ImagerPixelSpacing = [0.1, 0.125]
    return image


@pytest.mark.parametrize("is_large", [False, True])
def test_the_heat_map_lies_as_in_the_secondary_capture(bench: WebBench, is_large: bool) -> None:
    image = study()[1]
    uid = bench.receive(large(image) if is_large else image)
    bench.report(0.4)
    (listed,) = bench.client(Role.RADIOLOGIST).get(f"/studies/{uid}/images").json()
    results = views.study(bench.database, uid)["results"]  # type: ignore[index]
    capture = dcmread(bench.files.path(next(one["sha256"] for one in results if one["role"] == "SC")))
    expected = capture.pixel_array.astype(float)
    grey = greys(bench, listed)
    assert grey.shape == expected.shape[:2]
    assert max(grey.shape) <= images.LONGEST
    heat = picture(bench.client(Role.RADIOLOGIST), listed["heat"])
    rows, columns = grey.shape
    over = np.asarray(Image.fromarray(heat).resize((columns, rows), Image.Resampling.BILINEAR)).astype(float)
    # Below the texts at the top, above those at the bottom, and left of the colour bar; where colour is.
    middle = np.zeros(grey.shape, bool)
    middle[rows // 6 : -rows // 4, : -columns // 6] = True

    def apart(layer: NDArray[np.float64]) -> float:
        alpha = layer[..., 3:] / 255
        shown = layer[..., :3] * alpha + grey[..., None] * 255 * (1 - alpha)
        coloured = middle & ((np.ptp(expected, axis=2) > 12) | (layer[..., 3] > 12))
        return float(np.abs(shown - expected)[coloured].mean())

    assert over[..., 3].max() == pytest.approx(0.6 * 255 * (0.8 - 0.15) / 0.85, abs=6), "it fades as the SC's"
    assert apart(over) < 1
    step = rows // 64
    shifted = [np.roll(over, step, axis) for axis in (0, 1)]
    for wrong in (over[:, ::-1], over[::-1], over[::-1, ::-1], *shifted, np.zeros_like(over)):
        assert apart(wrong) > 3


def test_a_marked_rectangle_comes_back_in_the_same_pixels(bench: WebBench, uid: str) -> None:
    image = bench.sources(uid)[0]
    corners = [[0.0, 0.0], [511.5, 0.0], [511.5, 639.9], [0.0, 639.9]]
    said = {"label": "negative", "image": image, "region": json.dumps(corners), "comment": "  a line  "}
    client = bench.client(Role.RADIOLOGIST)
    assert client.post(f"/studies/{uid}/labels", data=said).status_code == 303
    (kept,) = feedback.every(bench.database)
    assert kept.region == tuple(map(tuple, corners))
    assert (kept.who, kept.source, kept.comment, kept.label) == ("radiologist", "web", "a line", "negative")
    assert (kept.sop_instance_uid, kept.probability, kept.positive) == (image, 0.87, True)
    (mark,) = next(one["marks"] for one in client.get(f"/studies/{uid}/images").json() if one["uid"] == image)
    assert mark == {"points": corners, "text": "negative (radiologist)"}
    (event,) = bench.events("feedback")
    assert (event.details["who"], event.details["source"]) == ("radiologist", "web")
    assert "a line" not in str(event.details)


@pytest.mark.parametrize(
    ("region", "image"),
    [
        ("[[0,0],[512.1,0],[9,9]]", True),
        ("[[0,0],[9,0],[9,640.1]]", True),
        ("[[-0.1,0],[9,0],[9,9]]", True),
        ("[[0,0],[9,9]]", True),
        ("[[NaN,0],[9,0],[9,9]]", True),
        ("[[1e999,0],[9,0],[9,9]]", True),
        ("[[0,0],[9,0],[9,9]]", False),
        ('[["a",0],[9,0],[9,9]]', True),
        ("[[0],[9],[9]]", True),
        ("{}x", True),
        ("7", True),
        ("[" * 5000, True),
    ],
)
def test_a_place_that_is_none_is_refused(bench: WebBench, uid: str, region: str, image: bool) -> None:
    said = {"label": "positive", "image": bench.sources(uid)[0] if image else "", "region": region}
    assert bench.client(Role.RADIOLOGIST).post(f"/studies/{uid}/labels", data=said).status_code == 400
    assert (
        bench.client(Role.RADIOLOGIST).post(f"/studies/{uid}/labels", data={"label": "x"}).status_code == 400
    )
    assert feedback.every(bench.database) == []


def test_a_correction_is_one_more_and_validation_counts_the_newest(bench: WebBench, uid: str) -> None:
    client = bench.client(Role.RADIOLOGIST)
    for label in ("positive", "negative", "positive"):
        assert client.post(f"/studies/{uid}/labels", data={"label": label}).status_code == 303
    assert [one.label for one in feedback.every(bench.database)] == ["positive", "negative", "positive"]
    page = client.get(f"/studies/{uid}/parts/labels").text
    assert page.count("radiologist,") == 3
    found = validation.run(bench.database, ValidationSettings(min_labels=1))
    assert [(one.what, one.where, one.n, one.value) for one in found.checks if one.n][:1] == [
        ("sensitivity", "studies", 1, 1.0)
    ]


def test_agreement_is_told_of_what_was_said_and_sent_as_what_is_there(bench: WebBench, uid: str) -> None:
    page = bench.client(Role.RADIOLOGIST).get(f"/studies/{uid}").text
    assert re.search(r'value="positive" required> <span[^>]*>Agree: present<', page)
    assert re.search(r'value="negative" required> <span[^>]*>Disagree: absent<', page)


def test_deliveries_say_what_the_pacs_answered(bench: WebBench, uid: str) -> None:
    bench.deliver(DeliveryState.PENDING, 0xA700, "out of resources", retry_after=60.0)
    page = bench.client(Role.VIEWER).get(f"/studies/{uid}/parts/record").text
    assert page.count("0xA700 out of resources") == 3
    assert page.count('<td class="warn">PENDING</td>\n<td>1</td>') == 3


def test_retry_lets_go_out_what_did_not_arrive(bench: WebBench, uid: str) -> None:
    bench.deliver(DeliveryState.QUARANTINED, 0xC000, "no", retry_after=60.0)
    assert "QUARANTINED" in bench.client(Role.VIEWER).get(f"/studies/{uid}").text
    answer = bench.client(Role.ADMIN).post(f"/studies/{uid}/actions/retry", data={"confirm": "yes"})
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/studies/{uid}")
    (event,) = bench.events("retried")
    assert event.details == {"images": 0, "deliveries": 3, "new": False, "who": "admin"}
    assert [one["state"] for one in views.study(bench.database, uid)["results"]] == ["PENDING"] * 3  # type: ignore[index]


def test_amend_makes_a_new_report_of_the_same_findings(bench: WebBench, uid: str) -> None:
    headers = {"HX-Request": "true"}
    answer = bench.client(Role.ADMIN).post(
        f"/studies/{uid}/actions/amend", data={"confirm": "yes"}, headers=headers
    )
    assert (answer.status_code, answer.headers["HX-Trigger"]) == (200, "renew")
    bench.report()
    page = bench.client(Role.ADMIN).get(f"/studies/{uid}").text
    assert headline(page).startswith("AMENDED (replaces ")
    assert "(replaced)" in page
    assert len(bench.events("analyzed")) == 2


def test_analyze_again_asks_the_model_again_about_every_image(bench: WebBench, uid: str) -> None:
    assert (
        bench.client(Role.ADMIN)
        .post(f"/studies/{uid}/actions/reanalyze", data={"confirm": "yes"})
        .status_code
        == 303
    )
    (event,) = bench.events("reanalyzed")
    assert event.details == {"images": 2, "deliveries": 3, "new": True, "who": "admin"}
    page = bench.client(Role.VIEWER).get(f"/studies/{uid}").text
    assert headline(page) == "IN PROGRESS: a new report is being made"
    assert page.count("waiting to be analyzed") == 2
    bench.report(0.2, 0.6)
    page = bench.client(Role.VIEWER).get(f"/studies/{uid}").text
    assert headline(page).endswith("60 %")
    assert headline(page).startswith("AMENDED")
    assert [event.details["probability"] for event in bench.events("analyzed")] == [0.12, 0.87, 0.2, 0.6]
    captures = [one for one in views.study(bench.database, uid)["results"] if one["role"] == "SC"]  # type: ignore[index]
    assert len({one["sop_instance_uid"] for one in captures}) == 4, "new pictures are new objects"


def test_analyze_again_takes_nothing_over_from_another_version_of_the_image(bench: WebBench) -> None:
    image = study()[0]
    uid = bench.receive(image)
    bench.report(0.9)
    image.PatientComments = "a header that changed"
    bench.receive(image)
    bench.report()
    assert len(bench.events("finding_copied")) == 1
    bench.client(Role.ADMIN).post(f"/studies/{uid}/actions/reanalyze", data={"confirm": "yes"})
    bench.report(0.2, 0.2)
    assert len(bench.events("finding_copied")) == 1
    assert [event.details["probability"] for event in bench.events("analyzed")][1:] == [0.2, 0.2]


def test_an_image_whose_file_is_gone_is_told(bench: WebBench, uid: str) -> None:
    for one in views.study(bench.database, uid)["instances"]:  # type: ignore[index]
        bench.files.path(one["sha256"]).unlink()
    client = bench.client(Role.RADIOLOGIST)
    assert client.get(f"/studies/{uid}").status_code == 200
    listed = client.get(f"/studies/{uid}/images").json()
    answer = client.get(listed[0]["pixels"])
    assert (answer.status_code, answer.text) == (409, "its file is gone")


def test_what_cannot_be_shown_says_why(bench: WebBench) -> None:
    image = study()[0]
    image.Rows *= 2
    uid = bench.receive(image)
    bench.report()
    client = bench.client(Role.RADIOLOGIST)
    (listed,) = client.get(f"/studies/{uid}/images").json()
    assert listed["verdict"].startswith("NOT ANALYZED: ")
    assert listed["heat"] is None
    assert client.get(listed["pixels"]).status_code == 409
    assert client.get(f"/studies/{uid}/images/{listed['uid']}/heat").status_code == 404


def test_two_patients_in_one_study_are_both_named(bench: WebBench) -> None:
    first, second = study()
    second.PatientID, second.PatientName = "P-0815", "OTHER^ONE"
    uid = bench.receive(first, second)
    bench.report(0.1, 0.1)
    page = bench.client(Role.RADIOLOGIST).get(f"/studies/{uid}").text
    assert "OTHER ONE / ROENTGEN ANNA BERTHA" in page
    assert headline(page).startswith("NOT ANALYZED: identity conflict")


def test_the_region_lies_where_the_model_pointed(bench: WebBench, uid: str) -> None:
    listed = bench.client(Role.RADIOLOGIST).get(f"/studies/{uid}/images").json()[0]
    points = np.asarray(listed["regions"][0]["points"])
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    assert middle == pytest.approx(((BOX[0] + BOX[2]) / 2, (BOX[1] + BOX[3]) / 2), abs=2)
