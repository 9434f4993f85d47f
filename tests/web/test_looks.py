"""The pages as people see them: at a desk and on a phone, light and dark, with the keyboard alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect
from support.web.site import NAMES, Site, images, password

pytestmark = [pytest.mark.browser, pytest.mark.slow]

WaitUntil = Callable[[Callable[[], object], float], None]
PAGES = {
    "worklist": "/",
    "empty": "/?q=zzz",
    "model": "/model",
    "system": "/system",
    "login": "/login",
    "error": "/none",
}
AXE = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["desktop", "phone"])
@pytest.mark.parametrize("name", PAGES)
def test_no_barriers(
    open_page: Callable[..., Page], artifacts: Path, name: str, size: str, scheme: str
) -> None:
    page = open_page(PAGES[name], "admin", size=size, scheme=scheme)
    page.screenshot(path=artifacts / f"{name}-{size}-{scheme}.png", full_page=True)
    found: Any = Axe().run(page, options=AXE).response["violations"]
    assert [(one["id"], [node["target"] for node in one["nodes"]]) for one in found] == []
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, "the page scrolls sideways"


def test_worklist_says_what_became_of_each_study(open_page: Callable[..., Page], site: Site) -> None:
    page = open_page("/", "radiologist")

    def row(kind: str) -> Any:
        return page.get_by_role("row").filter(has=page.locator(f'a[href="/studies/{site.studies[kind]}"]'))

    expect(row("POSITIVE")).to_contain_text("MÜLLER ANNA")
    expect(row("POSITIVE")).to_contain_text("Fracture suspected, right wrist")
    expect(row("NEGATIVE")).to_contain_text("O'HARA <b>MARY</b>")
    expect(row("NEGATIVE")).to_contain_text("no fracture suspected")
    expect(row("NEGATIVE")).to_contain_text("This does not exclude a fracture.")
    expect(row("NEGATIVE").locator(".state")).to_have_text("DELIVERED")
    expect(row("BROKEN")).to_contain_text("NOT ANALYZED")
    expect(row("BROKEN")).to_contain_text("0 of 2")
    expect(row("SKIPPED").locator(".state")).to_have_text("SKIPPED")
    expect(row("LEFT")).to_contain_text("CR WRIST")


def test_a_viewer_sees_no_patient(open_page: Callable[..., Page], site: Site) -> None:
    page = open_page("/", "viewer")
    expect(page.get_by_role("link", name=site.studies["POSITIVE"])).to_be_visible()
    text = page.content()
    for kind, name in NAMES.items():
        assert f"ID-{kind}" not in text
        assert name.split("^")[0] not in text
    expect(page.get_by_role("link", name="Try it")).to_have_count(0)


def test_filters_live_in_the_address(open_page: Callable[..., Page], site: Site) -> None:
    page = open_page("/", "radiologist")
    page.get_by_label("Modality").select_option("CR")
    expect(page.get_by_role("row")).to_have_count(2)
    expect(page).to_have_url(f"{site.url}/?modality=CR")
    page.get_by_label("Search").fill("yamada")
    expect(page).to_have_url(f"{site.url}/?q=yamada&modality=CR")
    page.get_by_label("Search").fill("nobody of this name")
    expect(page.get_by_text("No study matches.")).to_be_visible()
    expect(page.get_by_role("status")).to_contain_text("0 studies")
    page.reload()
    expect(page.get_by_label("Modality")).to_have_value("CR")
    expect(page.get_by_label("Search")).to_have_value("nobody of this name")
    page.go_back()
    page.go_back()
    expect(page).to_have_url(f"{site.url}/?modality=CR")
    expect(page.get_by_role("row")).to_have_count(2)
    expect(page.get_by_label("Search")).to_have_value("")
    page.go_back()
    expect(page).to_have_url(f"{site.url}/")
    expect(page.get_by_label("Modality")).to_have_value("")
    page.go_forward()
    expect(page.get_by_label("Modality")).to_have_value("CR")
    page.get_by_role("link", name="Clear").click()
    expect(page).to_have_url(f"{site.url}/")


@pytest.mark.parametrize("size", ["desktop", "phone"])
def test_a_new_study_appears_by_itself_and_the_focus_stays(
    open_page: Callable[..., Page], site: Site, size: str
) -> None:
    seed = {"desktop": 101, "phone": 102}[size]
    page = open_page("/", "radiologist", size=size)
    link = page.locator(f'a[href="/studies/{site.studies["NEGATIVE"]}"]')
    link.focus()
    widths = "[...document.querySelectorAll('thead th')].map(one => one.offsetWidth)"
    before = page.evaluate(widths)
    new = site.send(images("LEFT", seed))
    row = page.get_by_role("row").filter(has=page.locator(f'a[href="/studies/{new}"]'))
    expect(row.locator(".state")).to_have_text("DELIVERED", timeout=60_000)
    expect(link).to_be_focused()
    assert page.evaluate(widths) == before, "columns moved"
    listed = [one.details["studies"] for one in site.events("patients_listed")]
    assert [new] in listed


def test_the_list_leads_to_the_login_once_the_session_is_over(
    open_page: Callable[..., Page], site: Site, wait_until: WaitUntil
) -> None:
    page = open_page("/?state=DELIVERED", "viewer")
    site.end_sessions("viewer")
    expect(page.get_by_role("heading", name="Log in")).to_be_visible(timeout=30_000)
    page.get_by_label("Name").fill("viewer")
    page.get_by_label("Password").fill(password("viewer"))
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{site.url}/?state=DELIVERED")


@pytest.mark.parametrize("path", ["/", "/studies/{uid}"])
def test_who_looks_is_told_when_the_node_no_longer_answers(
    open_page: Callable[..., Page], site: Site, artifacts: Path, path: str
) -> None:
    page = open_page(path.format(uid=site.studies["POSITIVE"]), "radiologist")
    banner = page.get_by_role("alert").filter(has_text="The node does not answer.")
    expect(banner).to_be_hidden()
    page.context.set_offline(True)
    expect(banner).to_be_visible(timeout=45_000)
    page.screenshot(path=artifacts / f"no-answer-{path.strip('/').split('/')[0] or 'list'}.png")
    page.context.set_offline(False)
    expect(banner).to_be_hidden(timeout=45_000)


def test_the_keyboard_is_enough(open_page: Callable[..., Page], site: Site) -> None:
    page = open_page("/", "radiologist")
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    focused = page.evaluate("document.activeElement.closest('main') !== null")
    assert focused, "the skip link leads into the content"
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.getAttribute('href')"))
    assert {f"/studies/{uid}" for uid in site.studies.values()} <= reached


def test_scripts_of_others_do_not_run(open_page: Callable[..., Page], wait_until: WaitUntil) -> None:
    page = open_page("/login", None, strict=False)
    page.evaluate("""() => {
        const inline = document.createElement('script');
        inline.textContent = 'window.ran = true';
        document.body.append(inline);
        const image = document.createElement('img');
        image.setAttribute('onerror', 'window.ran = true');
        image.src = '/none';
        document.body.append(image);
    }""")
    wait_until(lambda: page.evaluate("document.images[0].complete"), 20)
    assert page.evaluate("window.ran") is None


def test_without_scripts_the_list_still_works(open_page: Callable[..., Page], site: Site) -> None:
    page = open_page("/", "radiologist", java_script_enabled=False)
    page.get_by_label("Search").fill("yamada")
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_role("row").filter(has_text="YAMADA")).not_to_have_count(0)
    expect(page.get_by_role("row").filter(has_text="MÜLLER")).to_have_count(0)


def test_the_administrator_gives_up_what_never_arrives(
    open_page: Callable[..., Page], site: Site, wait_until: WaitUntil
) -> None:
    uid = site.send(images("BROKEN", 103))
    wait_until(lambda: site.state(uid) == "QUARANTINED", 120)
    viewer = open_page("/system", "viewer", size="phone")
    expect(viewer.get_by_role("link", name=uid).first).to_be_visible()
    expect(viewer.get_by_role("button", name="Retry")).to_have_count(0)
    page = open_page("/", "admin")
    page.get_by_role("link", name="refused for good").click()
    row = page.get_by_role("row").filter(has_text=uid).filter(has_text="QUARANTINED")
    row.get_by_text("Give up …").click()
    row.get_by_role("button", name="Give up").click()
    expect(row.get_by_label("Reason")).to_be_focused()
    row.get_by_label("Reason").fill("the archive is being replaced")
    row.get_by_role("button", name="Give up").click()
    expect(page.get_by_role("status")).to_have_text("1 result given up.")
    assert site.events("delivery_discarded")[-1].details["who"] == "admin"


def test_no_patient_is_in_the_log(site: Site) -> None:
    log = (site.folder / "node.log").read_text(errors="replace")
    assert "ready" in log
    for kind, name in NAMES.items():
        assert f"ID-{kind}" not in log
        assert name.split("^")[0] not in log
