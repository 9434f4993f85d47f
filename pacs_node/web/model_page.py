"""The page of the served model: its card, its test figures, and its performance at this node."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from pacs_node import toml
from pacs_node.errors import ConfigError
from pacs_node.journal import audit, feedback, processes, views
from pacs_node.operate.problems import VALIDATIONS
from pacs_node.web.access import backend, page
from pacs_node.web.pages import render
from pacs_node.web.users import Role

DAYS = 30
FIGURES = ("roc.png", "reliability.png")
FILES = (*FIGURES, "metrics.json")
"""The files of the package that are served."""
_BINS = 10


@dataclass(frozen=True, slots=True)
class DayOfFindings:
    """The model's findings of one day."""

    name: str
    images: int
    positive: float
    """Share of positive findings; probabilities are 0..1 too."""
    median: float
    bins: tuple[float, ...]
    """Share of the images in each tenth of the probability, the lowest first."""


def model(request: Request) -> Response:
    """The page."""
    settings, database = backend(request).settings, backend(request).database
    folder = settings.model.path
    try:
        manifest = toml.read(folder / "model.toml")
    except ConfigError:
        manifest = {}
    since = database.clock() - DAYS * 86_400
    workers = [role for role in processes.running(database) if role.role == "worker"]
    context = {
        "manifest": manifest,
        "threshold": settings.model.threshold or manifest.get("threshold"),
        "served": sorted({worker.address for worker in workers if worker.ready}),
        "figures": headline_figures(_read(folder / "metrics.json", json.loads) or {}),
        "card": _read(folder / "CARD.md", card_html),
        "validation": audit.last(database, *VALIDATIONS),
        "limits": settings.validation,
        "labels": Counter(label.label for label in feedback.current(database)),
        "days": findings_by_day(views.station_findings(database, since), since),
        "bins": _BINS,
    }
    return render(request, "model.html", **context)


def file(request: Request) -> Response:
    """A figure, or the figures' numbers, from the package."""
    name = request.path_params["name"]
    path = backend(request).settings.model.path / name
    if name not in FILES or not path.is_file():
        raise HTTPException(404, "The model's package has no such file.")
    return FileResponse(path)


def _read(path: Path, parse: Callable[[str], Any]) -> Any:
    """A parsed file of the package; None if it is missing or malformed."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def headline_figures(metrics: dict[str, Any]) -> list[tuple[str, dict[str, float]]]:
    """The headline figures of the test split, each with its interval."""
    test = metrics.get("test", {})
    operation = test.get("operation", {})
    figures = {"AUC-ROC": test.get("auc")}
    figures |= {name: operation.get(name) for name in ("sensitivity", "specificity", "precision")}
    return [(name, value) for name, value in figures.items() if value]


def findings_by_day(findings: Sequence[views.StationFinding], since: float) -> list[DayOfFindings]:
    """Each day since then, in local time; days without an image too, so that gaps show."""
    by_day: dict[str, list[views.StationFinding]] = {}
    for finding in findings:
        by_day.setdefault(_day(finding.created_at), []).append(finding)
    names = [_day(since + number * 86_400) for number in range(DAYS + 1)] if findings else []
    days = []
    for name in names:
        of_day = by_day.get(name, [])
        values = np.array([finding.probability for finding in of_day])
        shares = np.histogram(values, _BINS, (0, 1))[0] / max(1, len(of_day))
        positive = sum(finding.positive for finding in of_day) / max(1, len(of_day))
        median = float(np.median(values)) if of_day else 0.0
        days.append(DayOfFindings(name, len(of_day), positive, median, tuple(shares.tolist())))
    return days


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).astimezone().date().isoformat()


class _Renderer(RendererHTML):
    """Headings one level lower, scrolling tables, and no images but FIGURES."""

    def render(self, tokens: Sequence[Token], options: object, env: object) -> str:
        for number, token in enumerate(tokens):
            if token.type in ("heading_open", "heading_close"):
                token.tag = f"h{min(6, int(token.tag[1]) + 1)}"
            if token.type == "th_open" and not tokens[number + 1].content:
                token.tag = tokens[number + 2].tag = "td"
        return super().render(tokens, options, env)  # type: ignore[arg-type]

    def table_open(self, tokens: Sequence[Token], index: int, options: object, env: object) -> str:
        return '<div class="scroll" tabindex="0" role="group" aria-label="Table"><table>\n'

    def table_close(self, tokens: Sequence[Token], index: int, options: object, env: object) -> str:
        return "</table></div>\n"

    def image(self, tokens: Sequence[Token], index: int, options: object, env: object) -> str:
        name, text = tokens[index].attrs.get("src"), Markup.escape(tokens[index].content)
        return f'<img class="figure" src="/model/{name}" alt="{text}">' if name in FIGURES else str(text)


def card_html(text: str) -> Markup:
    """A model card (Markdown) as HTML; raw HTML in it is shown as text."""
    markdown = MarkdownIt("commonmark", {"html": False}, renderer_cls=_Renderer).enable("table")
    tokens = markdown.parse(text)
    for token in tokens:
        token.children = without_local_links(token.children or [])
    return Markup(markdown.renderer.render(tokens, markdown.options, {}))


def without_local_links(tokens: list[Token]) -> list[Token]:
    # Files of the package are not served.
    kept, dropped = [], 0
    for token in tokens:
        if token.type == "link_open" and not str(token.attrs.get("href", "")).startswith("https://"):
            dropped += 1
        elif token.type == "link_close" and dropped:
            dropped -= 1
        else:
            kept.append(token)
    return kept


routes = [page("/model", model, Role.VIEWER), page("/model/{name}", file, Role.VIEWER)]
