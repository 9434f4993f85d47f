"""Try it: analyzes files that a user uploads; nothing of them is kept."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pacs_node.errors import InputError
from pacs_node.records import AuditKind
from pacs_node.report import facts
from pacs_node.web.access import backend, page, user
from pacs_node.web.pages import render
from pacs_node.web.users import Role

LARGEST = 200_000_000
"""Bytes of one upload, all files together."""
MOST_FILES = 20
PER_MINUTE = 6
ANALYSIS_SECONDS = 120.0
_PICTURE = 1280
"""Long side of the pictures in the answer."""
_SUFFIXES = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg"}
_one_at_a_time = threading.Lock()


@dataclass(frozen=True, slots=True)
class TriedFile:
    """The answer for one file."""

    name: str
    positive: bool | None
    """None if it was not analyzed."""
    verdict: str
    regions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    picture: str = ""
    """JPEG in base64, with the heat map; empty if there is none."""


def form(request: Request) -> Response:
    """The upload page."""
    return render(request, "try.html", largest=LARGEST // 1_000_000, tried=None)


def run(request: Request) -> Response:
    """Analyze the uploaded files in a folder that is deleted before the answer is sent."""
    uploads = [
        item for item in request.state.form.getlist("files") if isinstance(item, UploadFile) and item.size
    ]
    who = user(request).name
    backend(request).limits.hit(PER_MINUTE, "try", who)
    if not uploads:
        raise HTTPException(400, "No file was given.")
    if not _one_at_a_time.acquire(blocking=False):
        raise HTTPException(503, "Another upload is being analyzed. Wait a moment, then try again.")
    try:
        backend(request).database.audit(AuditKind.TRIED_OUT, who=who, files=len(uploads))
        with tempfile.TemporaryDirectory(prefix="pacs-node-try-") as folder:
            tried, summaries = _tried(backend(request).config, uploads, Path(folder))
    except InputError as error:
        raise HTTPException(422, f"The files could not be analyzed: {error}.") from None
    finally:
        _one_at_a_time.release()
    template = "try_result.html" if "HX-Request" in request.headers else "try.html"
    return render(request, template, largest=LARGEST // 1_000_000, tried=tried, summaries=summaries)


def _tried(
    config: Path | None, uploads: Sequence[UploadFile], folder: Path
) -> tuple[list[TriedFile], list[str]]:
    out = folder / "out"
    out.mkdir()
    # Numbered names: no path is ever made of received text.
    paths = [_store(upload, folder, number) for number, upload in enumerate(uploads, 1)]
    output = analyze(config, paths, out)
    answers = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("*.json"))]
    images = {image["path"]: image for answer in answers for image in answer["images"]}
    tried = []
    for upload, path in zip(uploads, paths, strict=True):
        name, image = upload.filename or "unnamed", images.get(str(path))
        if image is None or image["probability"] is None:
            reason = image["failure"] if image else reason_for(path, output)
            tried.append(TriedFile(name, None, f"NOT ANALYZED: {reason}"))
        else:
            tried.append(_answer(name, image, out / f"{path.name}.png"))
    return tried, [str(answer["summary"]) for answer in answers]


def _store(upload: UploadFile, folder: Path, number: int) -> Path:
    begin = upload.file.read(4)
    upload.file.seek(0)
    suffix = next((suffix for magic, suffix in _SUFFIXES.items() if begin.startswith(magic)), ".dcm")
    path = folder / f"{number}{suffix}"
    with path.open("wb") as file:
        shutil.copyfileobj(upload.file, file)
    return path


def analyze(config: Path | None, files: Sequence[Path], out: Path) -> str:
    """Run `pacs-node analyze` in a process of its own, which a bad file may kill without harm.

    The results lie in `out`. Returns its output. Raises InputError if it crashed or took too long.
    """
    options = ["--config", str(config)] if config else []
    command = [sys.executable, "-m", "pacs_node", *options, "analyze", *map(str, files), "--out", str(out)]
    try:
        process = subprocess.run(
            command,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=ANALYSIS_SECONDS,
            # Temporary files that a killed process leaves behind are deleted with the results.
            env=os.environ | {"TMPDIR": str(out)},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"given up after {ANALYSIS_SECONDS:.0f} s") from None
    if process.returncode < 0:
        raise InputError(f"the analysis ended with signal {-process.returncode}: the file is broken")
    return process.stdout if process.returncode == 0 else f"{process.stdout}\n{process.stderr}".strip()


def _answer(name: str, image: dict[str, Any], picture: Path) -> TriedFile:
    regions = []
    for region in image["regions"]:
        columns, rows = zip(*region["polygon"], strict=True)
        place = f"columns {min(columns):.0f} to {max(columns):.0f}, rows {min(rows):.0f} to {max(rows):.0f}"
        regions.append(f"peak of the map {region['score']:.2f}: {place}")
    caveat = f". {image['caveat']}" if image["caveat"] else ""
    return TriedFile(
        name,
        image["positive"],
        f"{image['phrase']}, {facts.percent(image['probability'])}{caveat}",
        tuple(regions),
        tuple(image["notes"]),
        small_jpeg(picture) if picture.exists() else "",
    )


def reason_for(path: Path, output: str) -> str:
    """The line "PATH: why" that `analyze` printed about a file without an answer, or its "error: why"."""
    error = "the analysis gave no answer for it"
    for line in output.splitlines():
        subject, _, why = line.partition(": ")
        if str(path) in subject.split(", ") and why:
            return why.removeprefix(f"{path}: ").replace(str(path.parent), "")
        error = why if subject == "error" else error
    return error


def small_jpeg(path: Path) -> str:
    picture = Image.open(path).convert("RGB")
    picture.thumbnail((_PICTURE, _PICTURE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=92, subsampling=0)
    return base64.b64encode(buffer.getvalue()).decode()


routes = [
    page("/try", form, Role.RADIOLOGIST),
    page("/try", run, Role.RADIOLOGIST, "POST", largest=LARGEST, files=MOST_FILES),
]
