"""Logging in and out, as people do it."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect
from support.web.site import password

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.mark.parametrize("size", ["desktop", "phone"])
def test_log_in_and_out(open_page: Callable[..., Page], size: str) -> None:
    page = open_page("/login", None, size=size)
    page.get_by_label("Name").fill("radiologist")
    page.get_by_label("Password").fill("not the password")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_have_text("Wrong name or password.")
    page.get_by_label("Password").fill(password("radiologist"))
    page.keyboard.press("Enter")
    expect(page.get_by_text("radiologist (radiologist)")).to_be_visible()
    expect(page.get_by_role("heading", name="Worklist")).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    page.goto("/system")
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
