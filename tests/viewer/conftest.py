"""Orthanc with DICOMweb and its own viewer, OHIF before it, and Chromium, once for all tests here."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, Playwright
from support.ohif import app, reported
from support.ohif.page import Viewer, WaitUntil
from support.ohif.reported import Reported
from support.orthanc import MakeOrthanc

from pacs_node import pipeline
from pacs_node.demo.pacs import Orthanc

FLAGS = (
    *("--no-sandbox", "--use-gl=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"),
    *("--no-proxy-server", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
)


@pytest.fixture(scope="session")
def pacs(make_orthanc: MakeOrthanc, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """An Orthanc of its own, with its plugins, without forwarding."""
    plugins = "OrthancDicomWeb", "OrthancWebViewer"
    server = make_orthanc(tmp_path_factory.mktemp("pacs"), plugins=plugins, HttpCompressionEnabled=False)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def studies(pacs: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reported]:
    """One study of each kind, in the PACS with its results."""
    folder = tmp_path_factory.mktemp("studies")
    made = {
        kind.__name__: kind(folder / kind.__name__)
        for kind in (
            reported.positive,
            reported.negative,
            reported.amended,
            reported.failed,
        )
    }
    for study in made.values():
        for stored in study.objects:
            pacs.rest.call("POST", "/instances", pipeline.encoded(stored))
    return made


@pytest.fixture(scope="session")
def ohif_url(pacs: Orthanc, tool: Callable[[str], Path], missing: Callable[[object], None]) -> Iterator[str]:
    """Where OHIF answers."""
    try:
        folder = app.fetch(tool)
    except subprocess.SubprocessError as error:
        missing(f"OHIF {app.VERSION} (npm could not fetch it: {error})")
    with app.Ohif(folder, pacs.rest.url) as server:
        yield server.url


@pytest.fixture(scope="session")
def browser(playwright: Playwright, tool: Callable[[str], Path]) -> Iterator[BrowserContext]:
    """Headless Chromium that draws in software and reaches this machine only; the tour was seen."""
    chromium = playwright.chromium.launch(executable_path=tool("chromium"), args=FLAGS)
    context = chromium.new_context(viewport={"width": 1500, "height": 900}, service_workers="block")
    context.set_default_timeout(40_000)
    context.add_init_script("localStorage.setItem('shownTours', '[\"basicViewerTour\"]')")
    yield context
    chromium.close()


@pytest.fixture
def page(browser: BrowserContext, request: pytest.FixtureRequest, artifacts: Path) -> Iterator[Page]:
    """A tab, with a screenshot of how the test left it."""
    page = browser.new_page()
    yield page
    page.screenshot(path=artifacts / f"end-of-{request.node.name}.png")
    page.close()


@pytest.fixture
def viewer(
    page: Page, ohif_url: str, studies: dict[str, Reported], artifacts: Path, wait_until: WaitUntil
) -> Iterator[Viewer]:
    """OHIF with all studies; a page that raises an error fails the test."""
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield Viewer(page, ohif_url, artifacts, wait_until)
    assert not errors
