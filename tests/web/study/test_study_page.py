"""The page of a study in Chromium: what is on the screen, by mouse, keyboard and touch."""

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from numpy.typing import NDArray
from playwright.sync_api import Page, expect
from support.web.web_bench import BOX, COLUMNS, PATIENT, ROWS, WebBench

from pacs_node.config import ValidationSettings
from pacs_node.journal import feedback, studies
from pacs_node.operate import validation
from pacs_node.web.users import Role

pytestmark = pytest.mark.browser

Open = Callable[..., Page]


def shown(page: Page, image: str) -> None:
    """Wait until this image is drawn."""
    page.locator(f'canvas[data-shown="{image}"]').wait_for()
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def settle(page: Page) -> None:
    """Wait until what was asked for is drawn."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def canvas(page: Page) -> NDArray[np.uint8]:
    """What is drawn, RGB."""
    settle(page)
    width, height, values = page.evaluate(
        """() => {
            const one = document.querySelector("canvas");
            const data = one.getContext("2d").getImageData(0, 0, one.width, one.height).data;
            const text = Array.from(data, (value) => String.fromCharCode(value)).join("");
            return [one.width, one.height, btoa(text)];
        }"""
    )
    return np.frombuffer(base64.b64decode(values), np.uint8).reshape(height, width, 4)[..., :3]


def plain(page: Page) -> None:
    """Without heat map and outlines, one pixel of the image on one of the screen."""
    page.locator("canvas").focus()
    for key in ("h", "o", "1"):
        page.keyboard.press(key)
    settle(page)


def found(drawn: NDArray[np.uint8], display: NDArray[np.float32]) -> tuple[int, int]:
    """Where the middle of the display lies in what is drawn: row and column of its first pixel."""
    rows, columns = display.shape
    patch = (display[rows // 4 : rows // 2, columns // 4 : -columns // 4] * 255).astype(np.uint8)
    at = cv2.matchTemplate(drawn[..., 0], patch, cv2.TM_SQDIFF)
    column, row = cv2.minMaxLoc(at)[2]
    return row - rows // 4, column - columns // 4


def displays(bench: WebBench, uid: str) -> dict[str, NDArray[np.float32]]:
    """The stored images as displayed, by SOP Instance UID."""
    return {
        one.sop_instance_uid: bench.display(one.sha256)
        for one in studies.study_instances(bench.database, uid)
    }


def window(drawn: NDArray[np.uint8], display: NDArray[np.float32], at: tuple[int, int]) -> tuple[Any, Any]:
    """The part of the drawing and of the display that both have."""
    rows, columns = display.shape
    top, left = max(at[0], 0), max(at[1], 0)
    bottom, right = min(at[0] + rows, drawn.shape[0]), min(at[1] + columns, drawn.shape[1])
    return drawn[top:bottom, left:right], display[top - at[0] : bottom - at[0], left - at[1] : right - at[1]]


def test_the_image_is_upright_with_right_greys(bench: WebBench, uid: str, open_as: Open) -> None:
    page = open_as(f"/studies/{uid}", Role.RADIOLOGIST)
    worst = bench.sources(uid)[0]
    shown(page, worst)
    plain(page)
    drawn, display = canvas(page), displays(bench, uid)[worst]
    seen, expected = window(drawn, display, found(drawn, display))
    assert seen.shape[0] > 400
    assert (seen.max(axis=2) == seen.min(axis=2)).all(), "grey"
    assert np.abs(seen[..., 0] - expected * 255).max() <= 1
    # Narrower: each grey as the window says, black and white beyond.
    page.keyboard.press("c")
    page.keyboard.press("b")
    width, level = 1 / 1.1, 0.45
    seen, _ = window(canvas(page), display, found(drawn, display))
    mapped = np.clip((expected - level + width / 2) / width, 0, 1) * 255
    assert np.abs(seen[..., 0] - mapped).max() <= 1
    page.keyboard.press("r")
    seen, _ = window(canvas(page), display, found(drawn, display))
    assert np.abs(seen[..., 0] - expected * 255).max() <= 1


def test_the_heat_map_comes_and_goes_with_the_slider(bench: WebBench, uid: str, open_as: Open) -> None:
    page = open_as(f"/studies/{uid}", Role.RADIOLOGIST)
    worst = bench.sources(uid)[0]
    shown(page, worst)
    page.get_by_label("Outlines").uncheck()

    def colour() -> NDArray[np.int64]:
        return np.asarray(np.ptp(canvas(page).astype(int), axis=2))

    whole = colour()
    # The hottest place is that of the cell that the model pointed at, in source pixels.
    rows, columns = np.nonzero(whole > 0.8 * whole.max())
    scale = min(whole.shape[0] / ROWS, whole.shape[1] / COLUMNS)
    corner = (whole.shape[1] - COLUMNS * scale) / 2, (whole.shape[0] - ROWS * scale) / 2
    middle = (columns.mean() - corner[0]) / scale, (rows.mean() - corner[1]) / scale
    assert middle == pytest.approx(((BOX[0] + BOX[2]) / 2, (BOX[1] + BOX[3]) / 2), abs=12)
    slider = page.get_by_label("Heat map")
    slider.focus()
    for _ in range(5):
        page.keyboard.press("PageDown")
    assert 0.2 * whole.sum() < colour().sum() < 0.9 * whole.sum()
    page.keyboard.press("Home")
    assert colour().sum() == 0


def test_regions_are_outlined_in_place(bench: WebBench, uid: str, open_as: Open) -> None:
    page = open_as(f"/studies/{uid}", Role.RADIOLOGIST)
    shown(page, bench.sources(uid)[0])
    page.locator("canvas").focus()
    with_outline = canvas(page).astype(int)
    page.keyboard.press("o")
    changed = np.abs(with_outline - canvas(page)).sum(axis=2) > 60
    scale = min(changed.shape[0] / ROWS, changed.shape[1] / COLUMNS)
    left = (changed.shape[1] - COLUMNS * scale) / 2
    (region,) = bench.client(Role.RADIOLOGIST).get(f"/studies/{uid}/images").json()[0]["regions"]
    points = np.asarray(region["points"]) * scale + [left, 0]
    # Its number stands above it.
    changed[: round(points[:, 1].min()) + 3] = False
    rows, columns = np.nonzero(changed)
    assert abs(columns.min() - points[:, 0].min()) < 4
    assert abs(columns.max() - points[:, 0].max()) < 4
    assert abs(rows.max() - points[:, 1].max()) < 4


def test_zoom_pan_and_window_by_mouse(bench: WebBench, uid: str, open_as: Open) -> None:
    page = open_as(f"/studies/{uid}", Role.RADIOLOGIST)
    worst = bench.sources(uid)[0]
    shown(page, worst)
    plain(page)
    display = displays(bench, uid)[worst]
    before = found(canvas(page), display)
    box = page.locator("canvas").bounding_box()
    assert box
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 40, middle[1] + 25, steps=4)
    page.mouse.up()
    after = found(canvas(page), display)
    assert (after[0] - before[0], after[1] - before[1]) == (25, 40)
    # The wheel zooms about the pointer: what lies under it stays there.
    state = page.locator("[data-state]")
    expect(state).to_contain_text("zoom 100 %")
    under = canvas(page)[int(middle[1] - box["y"]), int(middle[0] - box["x"])].astype(int)
    page.mouse.wheel(0, -100)
    expect(state).to_contain_text("zoom 125 %")
    here = canvas(page)[int(middle[1] - box["y"]), int(middle[0] - box["x"])].astype(int)
    assert np.abs(here - under).max() < 40
    page.mouse.wheel(0, 100)
    expect(state).to_contain_text("zoom 100 %")
    # The right button, or the mode, windows.
    bright = canvas(page).mean()
    page.mouse.move(*middle)
    page.mouse.down(button="right")
    page.mouse.move(middle[0], middle[1] + 100, steps=4)
    page.mouse.up(button="right")
    expect(state).to_contain_text("level 70 %")
    assert canvas(page).mean() < bright
    page.get_by_role("button", name="Drag: window").click()
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] - 100, middle[1] - 100, steps=4)
    page.mouse.up()
    expect(state).to_contain_text("window 80 %, level 50 %")
    page.get_by_role("button", name="Window as stored").click()
    expect(state).to_contain_text("window 100 %, level 50 %")
    page.get_by_label("Level").fill("30")
    expect(state).to_contain_text("level 30 %")
    page.get_by_role("button", name="Whole image").click()
    expect(state).not_to_contain_text("zoom 100 %")


def test_everything_goes_by_keyboard(bench: WebBench, uid: str, open_as: Open) -> None:
    page = open_as(f"/studies/{uid}", Role.RADIOLOGIST)
    worst, other = bench.sources(uid)
    shown(page, worst)
    plain(page)
    display = displays(bench, uid)[worst]
    before = found(canvas(page), display)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    after = found(canvas(page), display)
    assert after[1] < before[1]
    assert after[0] > before[0]
    state = page.locator("[data-state]")
    for key, told in (("+", "zoom 125 %"), ("-", "zoom 100 %"), ("v", "window 110 %"), ("d", "level 55 %")):
        page.keyboard.press(key)
        expect(state).to_contain_text(told)
    page.keyboard.press("n")
    shown(page, other)
    expect(page.locator("[data-text]")).to_contain_text("no fracture suspected, 12 %")
    page.keyboard.press("p")
    shown(page, worst)
    # The film strip is a row of buttons.
    strip = page.get_by_role("list", name="Images, highest probability first").get_by_role("button")
    assert [text.split("\n")[0] for text in strip.all_inner_texts()] == [
        "series 2 image 1, LL",
        "series 1 image 1, PA",
    ]
    strip.nth(1).focus()
    page.keyboard.press("Enter")
    shown(page, other)
    expect(strip.nth(1)).to_have_attribute("aria-current", "true")


def test_the_keys_are_those_of_the_documents(bench: WebBench, uid: str, open_as: Open) -> None:
    page = open_as(f"/studies/{uid}", Role.RADIOLOGIST)
    page.get_by_text("Keys, while the image has the focus").click()
    rows = page.locator(".keys tbody tr")
    expect(rows.first).to_be_visible()
    told = [tuple(row.locator("td").all_inner_texts()) for row in rows.all()]
    document = Path(__file__).parents[3] / "docs" / "web.md"
    written = re.findall(r"^\| `([^`]+)` \| (.+) \|$", document.read_text(encoding="utf-8"), re.MULTILINE)
    assert told == written


def test_the_picture_has_words(bench: WebBench, uid: str, open_as: Open) -> None:
    page = open_as(f"/studies/{uid}", Role.RADIOLOGIST)
    shown(page, bench.sources(uid)[0])
    described = page.locator("canvas").get_attribute("aria-describedby")
    assert described
    words = page.locator(f"#{described.split()[0]}")
    expect(words).to_contain_text(
        "right wrist, R: Fracture suspected, 87 % (threshold 50 %). Region 1, peak of the map 0.99:"
    )
    expect(page.locator("[data-marker]")).to_have_text("R")


def draw(page: Page, source: tuple[float, float, float, float]) -> list[list[float]]:
    """Draw a rectangle with the mouse, on the whole pixels of the screen next to these source pixels.

    Returns its corners in source pixels, as the place of the image on the screen says.
    """
    box = page.locator("canvas").bounding_box()
    assert box
    scale = min(box["width"] / COLUMNS, box["height"] / ROWS)
    left = box["x"] + (box["width"] - COLUMNS * scale) / 2
    top = box["y"] + (box["height"] - ROWS * scale) / 2
    x, y, u, v = (round((left, top)[i % 2] + value * scale) for i, value in enumerate(source))
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(u, v, steps=5)
    page.mouse.up()
    first_x, last_x, first_y, last_y = (
        (x - left) / scale,
        (u - left) / scale,
        (y - top) / scale,
        (v - top) / scale,
    )
    return [[first_x, first_y], [last_x, first_y], [last_x, last_y], [first_x, last_y]]


def test_a_radiologist_disagrees_and_marks_the_place(bench: WebBench, uid: str, open_as: Open) -> None:
    page = open_as(f"/studies/{uid}", Role.RADIOLOGIST)
    worst, other = bench.sources(uid)
    shown(page, worst)
    page.locator("canvas").focus()
    page.keyboard.press("n")
    shown(page, other)
    page.get_by_role("button", name="Mark a region").click()
    corners = draw(page, (100, 200, 180, 310))
    expect(page.locator("[data-place]")).to_contain_text("series 1 image 1, PA: columns")
    # About the marked image it had said no: a fracture there is a disagreement.
    page.get_by_label("Disagree: present").check()
    page.get_by_label("Comment").fill("hairline <i>here</i>")
    page.get_by_role("button", name="Record").click()
    expect(page.locator("#message")).to_contain_text("recorded with your name")
    expect(page.locator("#labels")).to_contain_text("hairline <i>here</i>")
    (kept,) = feedback.every(bench.database)
    assert (kept.sop_instance_uid, kept.label, kept.who) == (other, "positive", "radiologist")
    assert np.asarray(kept.region) == pytest.approx(np.asarray(corners), abs=0.06), "they are told to 0.1"
    # It is drawn where it was marked, in another colour than the model's.
    page.reload()
    shown(page, worst)
    page.locator("canvas").focus()
    page.keyboard.press("n")
    shown(page, other)
    page.keyboard.press("h")
    drawn = canvas(page).astype(int)
    green = (drawn[..., 1] > drawn[..., 0] + 60) & (drawn[..., 1] > drawn[..., 2] + 40)
    scale = min(drawn.shape[0] / ROWS, drawn.shape[1] / COLUMNS)
    left = (drawn.shape[1] - COLUMNS * scale) / 2
    rows, columns = np.nonzero(green)
    below = rows > 195 * scale
    assert abs((columns[below].min() - left) / scale - 100) < 4
    assert abs(rows.max() / scale - 310) < 4
    assert validation.run(bench.database, ValidationSettings(min_labels=1)).compared == 1
    (event,) = bench.events("feedback")
    assert event.details["who"] == "radiologist"
    # Agreeing is one more.
    page.get_by_label("Agree: present").check()
    page.get_by_role("button", name="Record").click()
    expect(page.locator("#labels li")).to_have_count(2)
    assert [one.sop_instance_uid for one in feedback.every(bench.database)] == [other, None]


def test_a_place_is_marked_by_keyboard_and_dropped(bench: WebBench, uid: str, open_as: Open) -> None:
    page = open_as(f"/studies/{uid}", Role.RADIOLOGIST)
    shown(page, bench.sources(uid)[0])
    page.locator("canvas").focus()
    for key in ("m", "ArrowLeft", "Shift+ArrowDown", "Enter"):
        page.keyboard.press(key)
    place = page.locator("[data-place]")
    expect(place).to_contain_text("columns")
    region = json.loads(page.locator("input[name=region]").input_value())
    assert all(0 <= x <= COLUMNS and 0 <= y <= ROWS for x, y in region)
    page.keyboard.press("Escape")
    expect(place).to_have_text("No region is marked.")
    assert page.locator("input[name=region]").input_value() == ""
    # A mark belongs to its image: about the whole study there is none.
    for key in ("m", "Enter"):
        page.keyboard.press(key)
    page.get_by_label("About").select_option("")
    expect(place).to_have_text("No region is marked.")


def changed(page: Page) -> None:
    """What the server's event of that name sets going."""
    page.evaluate(
        "document.querySelectorAll('[data-renews]').forEach((one) => htmx.trigger(one, 'sse:changed'))"
    )


def test_an_administrator_amends_and_analyzes_again_and_sees_it_happen(
    bench: WebBench, uid: str, open_as: Open
) -> None:
    page = open_as(f"/studies/{uid}", Role.ADMIN)
    shown(page, bench.sources(uid)[0])
    headline = page.locator(".headline")
    page.get_by_text("Amend …").click()
    page.get_by_role("button", name="Amend: yes").click()
    expect(page.locator("#message")).to_contain_text("A new report is being made")
    expect(headline).to_contain_text("IN PROGRESS")
    bench.report()
    changed(page)
    expect(headline).to_contain_text("AMENDED")
    expect(page.locator("#record")).to_contain_text("(replaced)")
    page.get_by_text("Analyze again …").click()
    page.get_by_role("button", name="Analyze again: yes").click()
    expect(page.locator("#record")).to_contain_text("waiting to be analyzed")
    bench.report(0.3, 0.4)
    changed(page)
    expect(headline).to_contain_text("Does not exclude a fracture")
    # The viewer follows without being opened anew.
    expect(page.locator("[data-text]")).to_contain_text("no fracture suspected, 40 %")
    page.get_by_text("Retry …").click()
    page.get_by_role("button", name="Retry: yes").click()
    expect(page.locator("#message")).to_contain_text("Everything that failed is retried.")
    assert [event.details["who"] for event in bench.events("retried")] == ["admin", "admin"]


def test_what_is_not_to_be_seen_is_not_on_the_viewer_s_page(bench: WebBench, uid: str, open_as: Open) -> None:
    page = open_as(f"/studies/{uid}", Role.VIEWER)
    expect(page.locator(".headline")).to_contain_text("Fracture suspected")
    content = page.content()
    assert not [name for name in PATIENT.split("^") if name in content]
    for absent in ("canvas", "#label", ".action", "img"):
        expect(page.locator(absent)).to_have_count(0)
    expect(page.get_by_role("heading", name="Timeline")).to_be_visible()


def test_fingers_zoom_and_move(bench: WebBench, uid: str, open_as: Open) -> None:
    page = open_as(f"/studies/{uid}", Role.RADIOLOGIST, "phone", touch=True)
    shown(page, bench.sources(uid)[0])
    box = page.locator("canvas").bounding_box()
    assert box
    session = page.context.new_cdp_session(page)
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def touch(kind: str, *points: tuple[float, float]) -> None:
        session.send(
            "Input.dispatchTouchEvent",
            {"type": kind, "touchPoints": [{"x": px, "y": py, "id": i} for i, (px, py) in enumerate(points)]},
        )

    before = page.locator("[data-state]").inner_text()
    whole = canvas(page)
    touch("touchStart", (x - 30, y))
    touch("touchMove", (x + 10, y + 20))
    touch("touchEnd")
    assert (canvas(page) != whole).any()
    assert page.locator("[data-state]").inner_text() == before
    touch("touchStart", (x - 30, y), (x + 30, y))
    touch("touchMove", (x - 60, y), (x + 60, y))
    touch("touchEnd")
    expect(page.locator("[data-state]")).not_to_have_text(before)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["desktop", "phone"])
def test_no_barriers(bench: WebBench, uid: str, open_as: Open, size: str, scheme: str) -> None:
    bench.client(Role.RADIOLOGIST).post(
        f"/studies/{uid}/labels", data={"label": "negative", "comment": "a word"}
    )
    for path, who in (
        (f"/studies/{uid}", Role.ADMIN),
        (f"/studies/{uid}", Role.VIEWER),
        ("/try", Role.RADIOLOGIST),
    ):
        page = open_as(path, who, size, scheme)
        if page.locator("canvas").count():
            shown(page, bench.sources(uid)[0])
            for summary in page.locator("summary").all():
                summary.click()
        found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]})
        assert found.violations_count == 0, found.generate_report()
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide == 0, "nothing is cut off at the right"
