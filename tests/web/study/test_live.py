"""The page of a study of a running node: what an administrator sets going is seen to happen."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect
from support.web.site import Site, images

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_amend_and_analyze_again_go_on_before_one_s_eyes(
    site: Site, open_page: Callable[..., Page], wait_until: Callable[..., None]
) -> None:
    uid = site.send(images("NEGATIVE", 77, 1))
    wait_until(lambda: site.state(uid) == "DELIVERED", 60)
    page = open_page(f"/studies/{uid}", "admin")
    page.locator("canvas:not([data-shown=''])[data-shown]").wait_for()
    headline = page.locator(".headline")
    expect(headline).not_to_contain_text("AMENDED")
    page.get_by_text("Amend …").click()
    page.get_by_role("button", name="Amend: yes").click()
    expect(headline).to_contain_text("AMENDED", timeout=60_000)
    # What the PACS answers to the new report, too.
    delivered = page.locator("#answer dd").first
    expect(delivered).to_have_text("DELIVERED", timeout=60_000)
    said = page.get_by_role("cell", name="analyzed", exact=True)
    before = said.count()
    page.get_by_text("Analyze again …").click()
    page.get_by_role("button", name="Analyze again: yes").click()
    expect(said).to_have_count(before + 1, timeout=60_000)
    expect(delivered).to_have_text("DELIVERED", timeout=60_000)
    reports = [one for one in site.pacs.results(uid) if one.Modality == "SR"]
    assert len(reports) == 3
    assert sum("PredecessorDocumentsSequence" in one for one in reports) == 2
