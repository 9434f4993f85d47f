"""Try it: what the model says of files that somebody drops here; nothing of them is kept."""

from __future__ import annotations

import base64
import io
import json
import shutil
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pacs_node.errors import InputError
from pacs_node.journal.database import Database
from pacs_node.records import AuditKind
from pacs_node.report import wording
from pacs_node.web.access import Limits, asker, page
from pacs_node.web.pages import render
from pacs_node.web.users import Role

if TYPE_CHECKING:
    from pacs_node.web.app import Services

LARGEST = 200_000_000
"""Bytes of one upload, all files together."""
PER_MINUTE = 6
_SHOWN = 1280
"""Long side of the pictures that are shown."""
_SUFFIXES = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg"}
_one_at_a_time = threading.Lock()


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of one file."""

    name: str
    positive: bool | None
    """None where it was not analyzed."""
    verdict: str
    regions: tuple[str, ...]
    notes: tuple[str, ...]
    picture: str
    """JPEG in base64, with the heat map; empty where there is none."""


def form(request: Request) -> Response:
    """The page to drop files on."""
    return render(request, "try.html", largest=LARGEST // 1_000_000, tried=None)


def run(request: Request) -> Response:
    """Analyze what was dropped, in a folder that is deleted before the answer goes out."""
    given = request.state.form.getlist("files")
    uploads = [one for one in given if isinstance(one, UploadFile) and one.size]
    limits: Limits = request.app.state.limits
    limits.hit(PER_MINUTE, "try", asker(request).name)
    if not uploads:
        raise HTTPException(400, "No file was given.")
    if not _one_at_a_time.acquire(blocking=False):
        raise HTTPException(503, "Somebody else is trying files out. Wait a moment, then try again.")
    try:
        database: Database = request.app.state.database
        database.audit(AuditKind.TRIED_OUT, who=asker(request).name, files=len(uploads))
        with tempfile.TemporaryDirectory(prefix="pacs-node-try-") as folder:
            tried, summaries = _analyze(request.app.state.services, uploads, Path(folder))
    except InputError as error:
        raise HTTPException(422, f"The files could not be analyzed: {error}.") from None
    finally:
        _one_at_a_time.release()
    template = "try_result.html" if "HX-Request" in request.headers else "try.html"
    return render(request, template, largest=LARGEST // 1_000_000, tried=tried, summaries=summaries)


def _analyze(
    services: Services, uploads: Sequence[UploadFile], folder: Path
) -> tuple[list[Tried], list[str]]:
    out = folder / "out"
    out.mkdir()
    # Names of ours: no path is made of what a browser sends.
    paths = [_store(one, folder, number) for number, one in enumerate(uploads, 1)]
    told = services.try_out(paths, out)
    answers = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("*.json"))]
    found = {image["path"]: image for answer in answers for image in answer["images"]}
    tried = [
        _tried(one.filename or "unnamed", path, found.get(str(path)), told, out)
        for one, path in zip(uploads, paths, strict=True)
    ]
    return tried, [str(answer["summary"]) for answer in answers]


def _store(upload: UploadFile, folder: Path, number: int) -> Path:
    begin = upload.file.read(4)
    upload.file.seek(0)
    suffix = next((suffix for magic, suffix in _SUFFIXES.items() if begin.startswith(magic)), ".dcm")
    path = folder / f"{number}{suffix}"
    with path.open("wb") as file:
        shutil.copyfileobj(upload.file, file)
    return path


def _tried(name: str, path: Path, said: dict[str, Any] | None, told: str, out: Path) -> Tried:
    """What came of a file; `told` has the reasons of those that no report speaks of."""
    if said is None or said["probability"] is None:
        reason = said["failure"] if said else _reason(path, told)
        return Tried(name, None, f"NOT ANALYZED: {reason}", (), (), "")
    words = "Fracture suspected" if said["positive"] else "no fracture suspected"
    regions = []
    for region in said["regions"]:
        columns, rows = zip(*region["polygon"], strict=True)
        place = f"columns {min(columns):.0f} to {max(columns):.0f}, rows {min(rows):.0f} to {max(rows):.0f}"
        regions.append(f"peak of the map {region['score']:.2f}: {place}")
    picture = out / f"{path.name}.png"
    return Tried(
        name,
        said["positive"],
        f"{words}, {wording.percent(said['probability'])}",
        tuple(regions),
        tuple(said["notes"]),
        _small(picture) if picture.exists() else "",
    )


def _reason(path: Path, told: str) -> str:
    """What `analyze` printed of a file that it could not use, "PATH: why", or what ended it, "error: why"."""
    error = "the analysis gave no answer for it"
    for line in told.splitlines():
        which, _, why = line.partition(": ")
        if str(path) in which.split(", ") and why:
            return why.removeprefix(f"{path}: ").replace(str(path.parent), "")
        error = why if which == "error" else error
    return error


def _small(path: Path) -> str:
    picture = Image.open(path).convert("RGB")
    picture.thumbnail((_SHOWN, _SHOWN))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=92, subsampling=0)
    return base64.b64encode(buffer.getvalue()).decode()


routes = [
    page("/try", form, Role.RADIOLOGIST),
    page("/try", run, Role.RADIOLOGIST, "POST", largest=LARGEST, files=20),
]
