"""A study from the spool to its results, with everything real but the network."""

import errno
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileDataset
from pydicom.uid import SecondaryCaptureImageStorage
from support import phantom
from support.bench import Bench

from pacs_node.analyze import decode
from pacs_node.config import ReportSettings
from pacs_node.errors import CheckError
from pacs_node.files import FileStore
from pacs_node.journal import audit, studies
from pacs_node.report import sc, sr
from pacs_node.roles import worker as work


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


@pytest.fixture
def image() -> Callable[..., FileDataset]:
    def make(seed: int = 1, **options: Any) -> FileDataset:
        return phantom.dataset(seed, rows=160, columns=128, **options)

    return make


def test_two_views_give_one_sr_and_two_scs(bench: Bench) -> None:
    views_of_wrist = phantom.two_views(1, rows=160, columns=128)
    bench.receive(*views_of_wrist)
    bench.work()
    study = bench.study(views_of_wrist[0])
    assert study["state"] == "READY"
    assert [image["state"] for image in study["instances"]] == ["ANALYZED", "ANALYZED"]
    assert [result["role"] for result in study["results"]] == ["SC", "SC", "SR"]
    assert bench.event_kinds(views_of_wrist[0]) == ["received"] * 2 + ["analyzed"] * 2 + ["reported"]
    (report,) = bench.results(views_of_wrist[0], "SR")
    assert report.StudyInstanceUID == views_of_wrist[0].StudyInstanceUID
    assert report.PatientID == views_of_wrist[0].PatientID
    assert bench.model.images_seen == 2


def test_a_late_image_adds_one_sc_and_an_amended_report(bench: Bench) -> None:
    first, late = phantom.two_views(1, rows=160, columns=128)
    bench.receive(first)
    bench.work()
    (before,) = bench.results(first, "SR")
    bench.receive(late)
    bench.work()
    assert len(bench.results(first, "SC")) == 2
    old, amended = bench.results(first, "SR")
    assert old.SOPInstanceUID == before.SOPInstanceUID
    assert amended.SeriesDescription.startswith("AMENDED")
    (study,) = amended.PredecessorDocumentsSequence
    (series,) = study.ReferencedSeriesSequence
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == before.SOPInstanceUID
    assert bench.model.images_seen == 2


def test_the_same_image_again_changes_nothing(bench: Bench, image: Callable[..., FileDataset]) -> None:
    bench.receive(image())
    bench.work()
    bench.receive(image())
    bench.work()
    assert len(bench.study(image())["results"]) == 2
    assert bench.event_kinds(image())[-1] == "duplicate_received"
    assert bench.model.images_seen == 1


def test_a_changed_header_is_audited_and_not_reported_again(
    bench: Bench, image: Callable[..., FileDataset]
) -> None:
    bench.receive(image())
    bench.work()
    renamed = image()
    renamed.StudyDescription = "renamed"
    bench.receive(renamed)
    bench.work()
    assert bench.event_kinds(renamed)[-4:] == [
        "received",
        "header_changed",
        "finding_copied",
        "report_unchanged",
    ]
    assert bench.events("header_changed", renamed)[0].details["changed"] == []
    assert len(bench.results(renamed, "SR")) == 1
    assert bench.model.images_seen == 1


def test_a_merged_patient_is_audited_by_keyword_without_the_names(
    bench: Bench, image: Callable[..., FileDataset]
) -> None:
    bench.receive(image())
    bench.work()
    merged = image()
    merged.PatientID, merged.PatientName = "MERGED", "SOMEBODY^ELSE"
    bench.receive(merged)
    bench.work()
    assert bench.events("header_changed", merged)[0].details["changed"] == ["PatientID", "PatientName"]
    assert "SOMEBODY" not in str(list(audit.events(bench.database)))
    assert bench.study(merged)["state"] == "READY"
    assert bench.model.images_seen == 1


@pytest.mark.parametrize("compress", ["dcmcrle", "dcmcjpls", "dcmcjpeg"])
def test_another_lossless_transfer_syntax_is_the_same_content(
    bench: Bench,
    image: Callable[..., FileDataset],
    tool: Callable[[str], Path],
    tmp_path: Path,
    compress: str,
) -> None:
    bench.receive(image())
    bench.work()
    plain, packed = tmp_path / "plain.dcm", tmp_path / "packed.dcm"
    image().save_as(plain, enforce_file_format=True)
    subprocess.run([tool(compress), plain, packed], check=True)
    bench.receive(dcmread(packed))
    bench.work()
    assert bench.events("header_changed", image())[0].details["changed"] == ["TransferSyntaxUID"]
    assert bench.event_kinds(image())[-1] == "report_unchanged"
    assert bench.model.images_seen == 1


def test_another_window_is_another_content(bench: Bench, image: Callable[..., FileDataset]) -> None:
    bench.receive(image())
    bench.work()
    windowed = image()
    windowed.WindowCenter, windowed.WindowWidth = 100, 50
    windowed.VOILUTFunction = "LINEAR"
    bench.receive(windowed)
    bench.work()
    conflict = bench.events("content_conflict", windowed)[0].details
    assert conflict["content_key"] != conflict["other_content_key"]
    assert len(bench.results(windowed, "SR")) == 2
    assert bench.model.images_seen == 2


def mirrored(image: FileDataset) -> bytes:
    """Its pixel data as of another image."""
    return image.pixel_array[:, ::-1].tobytes()


def test_content_that_returns_is_reported_again_without_the_model(
    bench: Bench, image: Callable[..., FileDataset]
) -> None:
    changed, again = image(), image()
    changed.PixelData = mirrored(changed)
    again.StudyDescription = "again"
    for dataset in (image(), changed, again):
        bench.receive(dataset)
        bench.work()
    conflicts = [e for e in bench.event_kinds(again) if e == "content_conflict"]
    assert len(conflicts) == 2
    reports = bench.study(again)["reports"]
    assert len(reports) == 3
    assert reports[0]["outcome"] == reports[2]["outcome"]
    assert bench.model.images_seen == 2


def test_versions_that_come_together_are_compared_with_each_other(
    bench: Bench, image: Callable[..., FileDataset]
) -> None:
    renamed, changed = image(), image()
    renamed.PatientName = "SOMEBODY^ELSE"
    changed.PixelData = mirrored(changed)
    bench.receive(image(), image(), renamed, changed)
    bench.work()
    events = bench.event_kinds(image())
    assert events.count("received") == 3
    assert events.count("duplicate_received") == 1
    assert bench.events("header_changed", image())[0].details["changed"] == ["PatientName"]
    assert events.count("content_conflict") == 1
    assert len(bench.study(image())["reports"]) == 1


def test_different_pixels_under_the_same_uid_are_reported_again(
    bench: Bench, image: Callable[..., FileDataset]
) -> None:
    bench.receive(image())
    bench.work()
    changed = image()
    changed.PixelData = mirrored(changed)
    bench.receive(changed)
    bench.work()
    assert len(bench.results(changed, "SR")) == 2
    assert "content_conflict" in bench.event_kinds(changed)
    received = [e for e in audit.events(bench.database, changed.StudyInstanceUID) if e.event == "received"]
    assert received[1].details["other_versions"] == [received[0].details["sha256"]]


def test_a_study_without_an_xray_is_skipped_with_the_reason(
    bench: Bench, image: Callable[..., FileDataset]
) -> None:
    capture = image()
    capture.SOPClassUID = capture.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    capture.Modality = "OT"
    bench.receive(capture)
    bench.work()
    study = bench.study(capture)
    assert (study["state"], study["results"]) == ("SKIPPED", [])
    assert "1 x not an X-ray image" in study["reason"]


def test_own_results_that_come_back_are_skipped(bench: Bench, image: Callable[..., FileDataset]) -> None:
    bench.receive(image())
    bench.work()
    results = [*bench.results(image(), "SC"), *bench.results(image(), "SR")]
    bench.receive(*results)
    bench.work()
    study = bench.study(image())
    own = [item["reason"] for item in study["instances"] if item["state"] == "SKIPPED"]
    assert own == ["own result", "own result"]
    assert len(study["reports"]) == 1


def test_an_image_without_pixels_fails_with_the_reason_and_the_other_is_reported(bench: Bench) -> None:
    good, bad = phantom.two_views(1, rows=160, columns=128)
    del bad.PixelData
    bench.receive(good, bad)
    bench.work()
    states = {item["sop_instance_uid"]: item for item in bench.study(good)["instances"]}
    assert states[bad.SOPInstanceUID]["state"] == "FAILED"
    assert "pixel data" in states[bad.SOPInstanceUID]["reason"].lower()
    (report,) = bench.results(good, "SR")
    assert report.CompletionFlag == "PARTIAL"


def test_a_study_that_cannot_be_analyzed_says_so_and_never_says_normal(
    bench: Bench, image: Callable[..., FileDataset]
) -> None:
    broken = image()
    del broken.PixelData
    bench.receive(broken)
    bench.work()
    (report,) = bench.results(broken, "SR")
    assert report.SeriesDescription == "AI: NOT ANALYZED"
    assert bench.study(broken)["reports"][0]["outcome"] == "FAILED"


def test_two_patients_under_one_study_are_never_merged(bench: Bench) -> None:
    dataset, other = phantom.two_views(1, rows=160, columns=128)
    other.PatientID = "SOMEBODY ELSE"
    bench.receive(dataset, other)
    bench.work()
    study = bench.study(dataset)
    assert (study["state"], study["results"]) == ("FAILED", [])
    assert "identity conflict" in study["reason"]


def test_images_that_disagree_about_the_patient_are_audited_by_keyword_only(bench: Bench) -> None:
    dataset, other = phantom.two_views(1, rows=160, columns=128)
    other.PatientName = "SOMEBODY^ELSE"
    other.AccessionNumber = "OTHER"
    bench.receive(dataset, other)
    bench.work()
    (reported,) = [e for e in audit.events(bench.database, dataset.StudyInstanceUID) if e.event == "reported"]
    assert reported.details["mismatches"] == ["PatientName", "AccessionNumber"]
    assert "SOMEBODY" not in str(list(audit.events(bench.database)))
    assert bench.results(dataset, "SR")[0].PatientName == "SOMEBODY^ELSE"


def test_a_transient_model_error_is_retried(bench: Bench, image: Callable[..., FileDataset]) -> None:
    bench.model.fails = 1
    bench.receive(image())
    bench.work()
    assert bench.event_kinds(image())[:3] == ["received", "analysis_postponed", "analyzed"]
    assert len(bench.results(image(), "SR")) == 1


def test_a_persistent_model_error_ends_in_a_failure_report(
    bench: Bench, image: Callable[..., FileDataset]
) -> None:
    bench.model.fails = 100
    bench.receive(image())
    bench.work()
    (item,) = bench.study(image())["instances"]
    given_up = f"given up after {work.MAX_ATTEMPTS} attempts: unexpected RuntimeError"
    assert (item["state"], item["reason"]) == ("FAILED", given_up)
    assert bench.results(image(), "SR")[0].SeriesDescription == "AI: NOT ANALYZED"


@pytest.fixture
def build_dies(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Make building a Secondary Capture raise; a BaseException stands for the death of the process."""

    def die(error: BaseException) -> None:
        def build(*_: object) -> None:
            raise error

        monkeypatch.setattr(sc, "build", build)

    return die


def died(bench: Bench, image: Dataset) -> None:
    """Work until the worker dies, then let its lease expire."""
    with pytest.raises(KeyboardInterrupt):
        bench.work()
    bench.clock.now += 180


def test_a_study_whose_report_fails_gets_a_failure_report(
    bench: Bench, image: Callable[..., FileDataset], build_dies: Callable[[BaseException], None]
) -> None:
    build_dies(CheckError("a rule of ours"))
    bench.receive(image())
    bench.work()
    (report,) = bench.results(image(), "SR")
    assert report.SeriesDescription == "AI: NOT ANALYZED"
    assert bench.results(image(), "SC") == []
    texts = [item.TextValue for item in report.ContentSequence[-1].ContentSequence if "TextValue" in item]
    assert texts[1].endswith("given up after 3 attempts: a rule of ours")
    study = bench.study(image())
    assert (study["state"], study["reason"]) == ("READY", "given up after 3 attempts: a rule of ours")
    assert bench.event_kinds(image()).count("report_postponed") == work.MAX_ATTEMPTS - 1


def test_a_report_that_kills_the_worker_is_tried_a_limited_number_of_times(
    bench: Bench, image: Callable[..., FileDataset], build_dies: Callable[[BaseException], None]
) -> None:
    build_dies(KeyboardInterrupt())
    bench.receive(image())
    for _ in range(work.MAX_ATTEMPTS):
        died(bench, image())
    bench.work()
    assert bench.results(image(), "SR")[0].SeriesDescription == "AI: NOT ANALYZED"
    assert bench.study(image())["reason"] == "given up after 3 attempts: the worker died"


def test_a_failure_report_that_kills_the_worker_is_not_retried_forever(
    bench: Bench, image: Callable[..., FileDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sc, "build", build)
    monkeypatch.setattr(sr, "build", build)
    bench.receive(image())
    for _ in range(work.MAX_ATTEMPTS + 1):
        died(bench, image())
    bench.work()
    study = bench.study(image())
    assert (study["state"], study["results"]) == ("FAILED", [])
    assert bench.event_kinds(image())[-1] == "report_failed"


def test_a_failure_to_report_never_replaces_an_answer(
    bench: Bench, build_dies: Callable[[BaseException], None]
) -> None:
    first, late = phantom.two_views(1, rows=160, columns=128)
    bench.receive(first)
    bench.work()
    build_dies(CheckError("a rule of ours"))
    bench.receive(late)
    bench.work()
    assert len(bench.results(first, "SR")) == 1
    assert bench.study(first)["state"] == "FAILED"
    assert bench.event_kinds(first)[-1] == "failure_report_suppressed"


def test_a_success_amends_the_failure_report(
    bench: Bench, image: Callable[..., FileDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.model.fails = 100
    bench.receive(image())
    bench.work()
    bench.model.fails = 0
    assert studies.retry_study(bench.database, image().StudyInstanceUID, "li")
    bench.work()
    before, after = bench.results(image(), "SR")
    assert before.SeriesDescription == "AI: NOT ANALYZED"
    assert after.SeriesDescription.startswith("AMENDED")
    assert "NOT ANALYZED" not in after.SeriesDescription


def test_reports_of_failures_are_limited_for_each_reason(
    bench: Bench, image: Callable[..., FileDataset]
) -> None:
    bench.settings = bench.settings.model_copy(update={"report": ReportSettings(failures_per_hour=2)})
    broken = [image(seed) for seed in range(5)]
    for number, dataset in enumerate(broken):
        del dataset.PixelData
        if number == 3:
            dataset.PixelData = b""
    for dataset in broken[:4]:
        bench.receive(dataset)
    bench.work()
    answered = [len(bench.results(dataset, "SR")) for dataset in broken[:4]]
    assert answered == [1, 1, 0, 1]
    silent = bench.study(broken[2])
    assert (silent["state"], silent["reason"]) == ("FAILED", "the object has no pixel data")
    assert bench.event_kinds(broken[2])[-1] == "failure_report_suppressed"
    # An hour later (each `work` lets one pass) there is room again.
    bench.receive(broken[4])
    bench.work()
    assert len(bench.results(broken[4], "SR")) == 1


def test_reports_of_failures_can_be_switched_off(bench: Bench, image: Callable[..., FileDataset]) -> None:
    bench.settings = bench.settings.model_copy(update={"report": ReportSettings(failures_per_hour=0)})
    broken = image()
    del broken.PixelData
    bench.receive(broken)
    bench.work()
    assert (bench.study(broken)["state"], bench.study(broken)["results"]) == ("FAILED", [])


def test_an_image_that_kills_the_worker_is_given_up_and_the_others_are_analyzed(
    bench: Bench, image: Callable[..., FileDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = image(9)
    read = decode.read

    def die(path: Path) -> Any:
        if dcmread(path, stop_before_pixels=True).SOPInstanceUID == poison.SOPInstanceUID:
            raise KeyboardInterrupt
        return read(path)

    monkeypatch.setattr(decode, "read", die)
    bench.receive(image(1), poison, image(2))
    # Once with the others of its batch, then alone.
    for _ in range(work.MAX_ATTEMPTS):
        died(bench, poison)
    bench.work()
    assert bench.study(poison)["instances"][0]["reason"] == "given up after 3 attempts: the worker died"
    assert bench.results(poison, "SR")[0].SeriesDescription == "AI: NOT ANALYZED"
    for seed in (1, 2):
        assert len(bench.results(image(seed), "SC")) == 1
    assert bench.model.images_seen == 2


def test_lack_of_memory_is_not_blamed_on_the_image(
    bench: Bench, image: Callable[..., FileDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    def frame(*_: object) -> None:
        monkeypatch.undo()
        raise MemoryError

    monkeypatch.setattr(decode, "_frame", frame)
    bench.receive(image())
    bench.work()
    assert bench.event_kinds(image())[:3] == ["received", "analysis_postponed", "analyzed"]


def test_a_late_image_under_a_new_threshold_reopens_the_other_images(bench: Bench) -> None:
    first, late = phantom.two_views(1, rows=160, columns=128)
    bench.receive(first)
    bench.work()
    bench.model.threshold = 0.01
    bench.receive(late)
    bench.work()
    assert "analysis_reopened" in bench.event_kinds(first)
    assert bench.study(first)["reports"][-1]["outcome"] == "POSITIVE"


def test_a_file_that_cannot_be_read_is_set_aside_and_the_others_go_on(
    bench: Bench, image: Callable[..., FileDataset]
) -> None:
    bench.files.spool([b"no DICOM at all"], str)
    bench.receive(image())
    assert len(bench.study(image())["instances"]) == 1
    assert bench.files.spooled() == []
    assert len(list((bench.files.root / "spool" / "unreadable").iterdir())) == 1
    assert next(e.event for e in audit.events(bench.database)) == "unreadable"


def test_a_study_that_is_due_does_not_wait_for_the_images_of_others(bench: Bench) -> None:
    first, other = (phantom.dataset(seed, rows=64, columns=64) for seed in (71, 72))
    worker = bench.worker()
    bench.receive(first)
    assert worker.step()
    bench.clock.now += 600
    bench.receive(other)
    assert worker.step()
    assert bench.study(first)["reports"]
    assert bench.study(other)["instances"][0]["state"] == "RECEIVED"


@pytest.mark.parametrize("step", ["read", "put"])
def test_a_long_disk_fault_fails_no_study(bench: Bench, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    image = phantom.dataset(73, rows=64, columns=64)
    left = work.MAX_ATTEMPTS + 3
    home, name = {"read": (decode, "read"), "put": (FileStore, "put")}[step]
    real = getattr(home, name)

    def fail_for_a_while(*arguments: Any) -> Any:
        nonlocal left
        left -= 1
        if left >= 0:
            raise OSError(errno.ENOSPC if step == "put" else errno.EIO, "as told")
        return real(*arguments)

    monkeypatch.setattr(home, name, fail_for_a_while)
    bench.receive(image)
    bench.work()
    assert left < 0
    assert bench.study(image)["instances"][0]["state"] == "ANALYZED"
    assert [report["outcome"] for report in bench.study(image)["reports"]] == ["NEGATIVE"]
