"""PixelMed's validator over the corpus's reports: one of each form, because each takes it seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import odd_inputs_table as table
import pytest
import validators
from corpus_run import run
from pydicom.dataset import Dataset

SLOW = {"60 megapixels", "deflated bomb"}


def form(item: Dataset) -> Iterator[object]:
    """What a template is judged by: the kinds, names, codes and relations of all items, not their texts."""
    for keyword in ("ValueType", "RelationshipType", "ContinuityOfContent", "GraphicType"):
        yield item.get(keyword)
    for keyword in ("ConceptNameCodeSequence", "ConceptCodeSequence"):
        for code in item.get(keyword) or []:
            yield code.CodeValue, code.CodingSchemeDesignator
    for child in item.get("ContentSequence") or []:
        yield tuple(form(child))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_pixelmed_accepts_every_form_of_report(
    tool: Callable[[str], Path], missing: Callable[[object], NoReturn], tmp_path: Path
) -> None:
    tool("java")
    if not validators.PIXELMED_JAR.exists():
        missing(validators.PIXELMED_JAR)
    forms: dict[object, tuple[str, Path]] = {}
    reports = 0
    for number, (name, case) in enumerate(table.cases().items()):
        if name in SLOW:
            continue
        done = run(case, tmp_path / str(number))
        if done.request:
            reports += 1
            report = done.result()
            stated = frozenset(element.keyword for element in report if not element.is_empty)
            forms.setdefault((tuple(form(report)), stated), (name, done.results["SR"]))
    assert reports > 150
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(
            lambda path: validators.pixelmed(path, "-checkcontentitemorder"), [p for _, p in forms.values()]
        )
        problems = {name: lines for (name, _), lines in zip(forms.values(), found, strict=True) if lines}
    print(f"{reports} reports of {len(forms)} forms")  # noqa: T201 - for the record
    assert problems == {}
