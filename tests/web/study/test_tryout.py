"""Trying files out: what is told of them, what is refused, and that nothing of them stays."""

import io
import itertools
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import FilePayload, Page, expect
from support import phantom
from support.model_packages import write_untrained
from support.web.web_bench import CONFIG, PATIENT, WebBench, study

from pacs_node import pipeline
from pacs_node.errors import InputError
from pacs_node.journal import views
from pacs_node.web import tryout
from pacs_node.web.users import Role

Open = Callable[..., Page]


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that calls every image positive."""
    return write_untrained(tmp_path_factory.mktemp("model"))


@pytest.fixture
def bench(tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebBench]:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    monkeypatch.setenv("TMPDIR", str(scratch))
    config = f'{CONFIG}[model]\npath = "{package}"\ndevice = "cpu"\n'
    with WebBench(tmp_path, config).serving() as bench:
        yield bench
    assert list(scratch.iterdir()) == [], "nothing of it stays"


def dicom(seed: int = 21) -> bytes:
    return pipeline.encoded(study(seed)[0])


def png() -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray((phantom.radiograph(3, True, 320, 256) >> 4).astype("uint8")).save(buffer, "PNG")
    return buffer.getvalue()


def post(bench: WebBench, *files: tuple[str, bytes], who: Role | None = Role.RADIOLOGIST) -> httpx.Response:
    given = [("files", (name, content)) for name, content in files]
    return bench.client(who).post("/try", files=given or [("other", (None, b"x"))])


@pytest.mark.slow
def test_each_file_gets_its_answer_and_nothing_else_hears_of_it(bench: WebBench) -> None:
    names = ("wrist of <b>Anna</b>", "photo.JPG", "letter.pdf", "../../etc/passwd", "the same")
    contents = (dicom(), png(), b"%PDF-1.4 no image", b"", dicom())
    answer = post(bench, *zip(names, contents, strict=True))
    assert answer.status_code == 200, answer.text
    page = answer.text
    assert "wrist of &lt;b&gt;Anna&lt;/b&gt;" in page
    assert len(re.findall(r'<p class="verdict fail">Fracture suspected, \d+ %', page)) == 2
    why = re.findall(r'<p class="verdict warn">NOT ANALYZED: ([^<]*)<', page)
    assert why == ["not a readable data set: InvalidDicomError", "skipped: the same image as 1.dcm"]
    assert page.count("data-picture=") == 2
    assert page.count("Region 1, peak of the map ") == 2
    assert "Research use only" in page
    assert views.counts(bench.database)["instances"] == {}
    assert list(bench.files.stored()) == [[]] * 256
    (event,) = bench.events("tried_out")
    assert event.details == {"who": "radiologist", "files": 4}
    assert PATIENT not in str(event)


def test_who_may_not_see_images_may_not_try(bench: WebBench) -> None:
    assert bench.client(Role.VIEWER).get("/try").status_code == 403
    assert post(bench, ("a", dicom()), who=Role.VIEWER).status_code == 403
    assert post(bench, ("a", dicom()), who=None).status_code == 401
    assert bench.events("tried_out") == []


def test_nothing_to_try_is_told(bench: WebBench) -> None:
    assert post(bench).status_code == 400
    assert post(bench, ("empty", b"")).status_code == 400
    assert post(bench, *[(str(number), b"x") for number in range(21)]).status_code == 400
    assert bench.events("tried_out") == []


def test_too_much_is_refused(bench: WebBench) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
    rest = tryout.LARGEST + 1 - len(head)
    piece = b"x" * (1 << 20)
    parts = [head, *itertools.repeat(piece, rest >> 20), piece[: rest % len(piece)]]
    said = {"Content-Type": "multipart/form-data; boundary=b", "Content-Length": str(tryout.LARGEST + 1)}
    # It may hang up before all was sent, and the answer be lost: the page tells it before it sends.
    with suppress(httpx.WriteError, httpx.ReadError):
        answer = bench.client(Role.RADIOLOGIST).post("/try", content=iter(parts), headers=said)
        assert answer.status_code == 413
    assert bench.events("tried_out") == []


def test_one_at_a_time_and_not_too_often(bench: WebBench, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(config: Path | None, files: list[Path], out: Path) -> str:
        begun.set()
        assert go_on.wait(60)
        raise InputError("given up after 120 s")

    monkeypatch.setattr(tryout, "analyze", slow)
    first: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: first.append(post(bench, ("a", b"x"))))
    thread.start()
    assert begun.wait(30)
    second = post(bench, ("b", b"x"), who=Role.ADMIN)
    assert second.status_code == 503
    assert "Another upload is being analyzed" in second.text
    go_on.set()
    thread.join()
    assert first[0].status_code == 422
    assert "could not be analyzed: given up after 120 s." in first[0].text
    answers = [post(bench, ("a", b"x")).status_code for _ in range(tryout.PER_MINUTE)]
    assert answers == [422] * (tryout.PER_MINUTE - 1) + [429]


def test_a_signal_that_ends_the_analysis_is_told(bench: WebBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    answer = post(bench, ("a", dicom()))
    assert answer.status_code == 200
    assert "NOT ANALYZED: the analysis gave no answer for it" in answer.text


def test_an_analysis_that_never_ends_is_ended_and_leaves_nothing(
    bench: WebBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "never-ends"
    program.write_text("#!/bin/sh\nmktemp -d\nexec sleep 600\n", encoding="utf-8")
    program.chmod(0o700)
    monkeypatch.setattr("sys.executable", str(program))
    monkeypatch.setattr(tryout, "ANALYSIS_SECONDS", 2.0)
    answer = post(bench, ("a", dicom()))
    assert answer.status_code == 422
    assert "could not be analyzed: given up after 2 s." in answer.text


@pytest.mark.browser
@pytest.mark.slow
def test_files_are_dropped_and_seen(bench: WebBench, open_as: Open) -> None:
    page = open_as("/try", Role.RADIOLOGIST)
    page.get_by_label("Drop files here, or choose them").set_input_files(
        [
            FilePayload(name="wrist.dcm", mimeType="application/dicom", buffer=dicom()),
            FilePayload(name="wrist.png", mimeType="image/png", buffer=png()),
            FilePayload(name="broken.dcm", mimeType="application/dicom", buffer=dicom(22)[:3000]),
        ]
    )
    page.get_by_role("button", name="Analyze").click()
    expect(page.get_by_role("progressbar")).to_be_visible()
    expect(page.get_by_text("Done.")).to_be_visible(timeout=120_000)
    cards = page.locator(".tried section")
    expect(cards).to_have_count(3)
    expect(cards.nth(0)).to_contain_text("Fracture suspected")
    expect(cards.nth(2)).to_contain_text("NOT ANALYZED: ")
    for number in (0, 1):
        picture = cards.nth(number).locator("img")
        assert picture.evaluate("one => one.decode().then(() => one.naturalWidth)") > 100
        assert (picture.get_attribute("alt") or "").startswith(
            f"wrist.{('dcm', 'png')[number]} with the heat map"
        )
    # A second file is dropped with the mouse.
    page.evaluate(
        """() => {
            const data = new DataTransfer();
            data.items.add(new File(["no image"], "letter.txt"));
            const drop = new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
            document.querySelector("#try").dispatchEvent(drop);
        }"""
    )
    page.get_by_role("button", name="Analyze").click()
    expect(cards).to_have_count(1, timeout=120_000)
    expect(cards).to_contain_text("letter.txt")
    expect(cards).to_contain_text("NOT ANALYZED: not a readable data set")
