"""PixelMed's validator on reports of the corpus: one of each form, since each takes seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
import support.odd_inputs.table as table
from support import validators
from support.odd_inputs.pipeline_run import run

CASES = table.cases()
FORMS = (
    "plain",
    "CR",
    "rescale slope 0",
    "rescale slope that is no number",
    "spacing that is no number",
    "Type 2 attributes absent",
    "no body part",
    "both sides",
    "a series of two sides",
    "several body parts",
    "one image of two is broken",
)
"""The reports of other cases differ in the codes of body part and side, the number of regions, and texts."""


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_pixelmed_accepts_every_form_of_report(
    name: str, tool: Callable[[str], Path], missing: Callable[[object], NoReturn], tmp_path: Path
) -> None:
    tool("java")
    if not validators.PIXELMED_JAR.exists():
        missing(validators.PIXELMED_JAR)
    report = run(CASES[name], tmp_path).results["SR"]
    assert validators.pixelmed(report, "-checkcontentitemorder") == []
