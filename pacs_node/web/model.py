"""The page of the served model: its card, what was measured, and how it does here."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from pacs_node import toml
from pacs_node.config import Settings
from pacs_node.errors import ConfigError
from pacs_node.journal import feedback, processes, views
from pacs_node.journal.database import Database
from pacs_node.web import card
from pacs_node.web.access import page
from pacs_node.web.alarms import Alarms
from pacs_node.web.pages import render
from pacs_node.web.users import Role

DAYS = 30
FILES = (*card.FIGURES, "metrics.json")
_BINS = 10


@dataclass(frozen=True, slots=True)
class Day:
    """What the model said on one day."""

    name: str
    images: int
    positive: float
    """Share that was called positive; probabilities are 0..1 too."""
    median: float
    bins: tuple[float, ...]
    """Share of the images in each tenth of the probability, the lowest first."""


def model(request: Request) -> Response:
    """The page."""
    settings: Settings = request.app.state.settings
    database: Database = request.app.state.database
    alarms: Alarms = request.app.state.alarms
    folder = settings.model.path
    try:
        manifest = toml.read(folder / "model.toml")
    except ConfigError:
        manifest = {}
    measured = _read(folder / "metrics.json", json.loads)
    written = _read(folder / "CARD.md", card.html)
    since = database.clock() - DAYS * 86_400
    validation = alarms.events().get("validation")
    workers = [one for one in processes.running(database) if one.role == "worker"]
    context = {
        "manifest": manifest,
        "threshold": settings.model.threshold or manifest.get("threshold"),
        "served": sorted({one.address for one in workers if one.ready}),
        "figures": _figures(measured or {}),
        "card": written,
        "validation": validation,
        "limits": settings.validation,
        "labels": Counter(one.label for one in feedback.current(database)),
        "days": _days(views.station_findings(database, since), since),
        "bins": _BINS,
    }
    return render(request, "model.html", **context)


def file(request: Request) -> Response:
    """A figure or the figures' numbers, as they lie in the package."""
    settings: Settings = request.app.state.settings
    name = request.path_params["name"]
    path = settings.model.path / name
    if name not in FILES or not path.is_file():
        raise HTTPException(404, "The model's package has no such file.")
    return FileResponse(path)


def _read(path: Path, parse: Any) -> Any:
    """A file of the package; None where it is missing or cannot be read."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _figures(measured: dict[str, Any]) -> list[tuple[str, dict[str, float]]]:
    """The figures of the test split that people ask for first, each with its interval."""
    test = measured.get("test", {})
    operation = test.get("operation", {})
    found = {"AUC-ROC": test.get("auc")}
    found |= {name: operation.get(name) for name in ("sensitivity", "specificity", "precision")}
    return [(name, value) for name, value in found.items() if value]


def _days(answers: Sequence[views.StationFinding], since: float) -> list[Day]:
    """Each day since then, in local time; days without an image too, so that gaps show."""
    by_day: dict[str, list[views.StationFinding]] = {}
    for one in answers:
        by_day.setdefault(_day(one.created_at), []).append(one)
    names = [_day(since + number * 86_400) for number in range(DAYS + 1)] if answers else []
    days = []
    for name in names:
        said = by_day.get(name, [])
        values = np.array([one.probability for one in said])
        share = np.histogram(values, _BINS, (0, 1))[0] / max(1, len(said))
        positive = sum(one.positive for one in said) / max(1, len(said))
        median = float(np.median(values)) if said else 0.0
        days.append(Day(name, len(said), positive, median, tuple(share.tolist())))
    return days


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).astimezone().date().isoformat()


routes = [page("/model", model, Role.VIEWER), page("/model/{name}", file, Role.VIEWER)]
