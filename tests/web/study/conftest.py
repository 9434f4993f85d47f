"""The bench of a study's pages, and Chromium on it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page
from support.web.web_bench import WebBench, study

from pacs_node.web import access
from pacs_node.web.users import Role

Open = Callable[..., Page]
SIZES = {"desktop": (1440, 900), "phone": (390, 844)}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[WebBench]:
    """The pages, served, on an empty journal."""
    with WebBench(tmp_path).serving() as bench:
        yield bench


@pytest.fixture
def uid(bench: WebBench) -> str:
    """A reported study: its first image is negative, its second one positive."""
    uid = bench.receive(*study())
    bench.report(0.12, 0.87)
    return uid


@pytest.fixture
def open_as(
    bench: WebBench, chromium: Browser, artifacts: Path, request: pytest.FixtureRequest
) -> Iterator[Open]:
    """Open a page as somebody with this role; an error or a breach of the content policy fails the test."""
    opened: list[Page] = []
    errors: list[str] = []

    def open_(
        path: str, who: Role, size: str = "desktop", scheme: str = "light", touch: bool = False
    ) -> Page:
        width, height = SIZES[size]
        context = chromium.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,  # type: ignore[arg-type]
            has_touch=touch,
            base_url=bench.url,
            service_workers="block",
        )
        context.set_default_timeout(20_000)
        token = bench.client(who).cookies[access.COOKIE]
        context.add_cookies([{"name": access.COOKIE, "value": token, "url": bench.url}])
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda one: errors.append(one.text) if "Content Security" in one.text else None)
        page.goto(path)
        opened.append(page)
        return page

    yield open_
    for number, page in enumerate(opened):
        page.screenshot(path=artifacts / f"end-of-{request.node.name}-{number}.png")
        page.context.close()
    assert not errors
