"""A running node with its pages, and Chromium to look at them, once for all tests here."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Playwright
from support.journal import arrival, clock, database, finding, model  # noqa: F401
from support.web.people import Door, door, write_users
from support.web.site import Site, running_site

from pacs_node.journal import sessions
from pacs_node.journal.database import Database
from pacs_node.web.access import COOKIE

FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--no-proxy-server"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
SIZES = {"desktop": (1440, 900), "phone": (390, 844)}

WaitUntil = Callable[[Callable[[], object], float], None]
Open = Callable[..., Page]


@pytest.fixture(scope="session")
def hashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the people of `web_site.ROLES`, made once: good hashes take their time."""
    path = tmp_path_factory.mktemp("users") / "users.toml"
    write_users(path)
    return path


@pytest.fixture
def users(hashed: Path, tmp_path: Path) -> Path:
    """The test's own copy of it."""
    return Path(shutil.copy(hashed, tmp_path / "users.toml"))


@pytest.fixture
def node(database: Database, tmp_path: Path, users: Path) -> Iterator[Door]:  # noqa: F811
    """The application on an empty journal."""
    with door(database, tmp_path / "storage", users) as served:
        yield served


@pytest.fixture(scope="session")
def site(
    tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int], wait_until: WaitUntil
) -> Iterator[Site]:
    """A node on the studies of `web_site.NAMES`; tests that change one send another of their own."""
    with running_site(tmp_path_factory.mktemp("site"), (free_port(), free_port()), wait_until) as running:
        yield running


@pytest.fixture(scope="session")
def chromium(playwright: Playwright, tool: Callable[[str], Path]) -> Iterator[Browser]:
    """Headless Chromium that reaches this machine only."""
    browser = playwright.chromium.launch(executable_path=tool("chromium"), args=FLAGS)
    yield browser
    browser.close()


@pytest.fixture
def open_page(
    chromium: Browser, site: Site, request: pytest.FixtureRequest, artifacts: Path
) -> Iterator[Open]:
    """Open a page as somebody: `open_page("/", "admin", size="phone", scheme="dark")`; None: not logged in.

    Each call is a browser of its own. A page that raises an error, or breaks its own content policy, fails
    the test; how each page was left is kept as a screenshot.
    """
    opened: list[Page] = []
    errors: list[str] = []

    def note(message: object) -> None:
        text = str(message)
        if "Content Security Policy" in text:
            errors.append(text)

    def open_(
        path: str,
        who: str | None,
        size: str = "desktop",
        scheme: str = "light",
        strict: bool = True,
        **options: Any,
    ) -> Page:
        width, height = SIZES[size]
        context = chromium.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,  # type: ignore[arg-type]
            base_url=site.url,
            service_workers="block",
            **options,
        )
        context.set_default_timeout(20_000)
        if who is not None:
            # Not by the form, which may be sent only so often.
            token = sessions.begin(site.database, who, who)
            context.add_cookies([{"name": COOKIE, "value": token, "url": site.url}])
        page = context.new_page()
        if strict:
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on("console", lambda message: note(message.text))
        page.goto(path)
        opened.append(page)
        return page

    yield open_
    for number, page in enumerate(opened):
        page.screenshot(path=artifacts / f"end-of-{request.node.name}-{number}.png")
        page.context.close()
    assert not errors
