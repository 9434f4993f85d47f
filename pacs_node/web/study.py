"""The page of one study: what was said of it, where it went, and what an administrator can do about it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from pydicom.dataset import Dataset
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from pacs_node.config import Settings
from pacs_node.dicom import reading
from pacs_node.files import FileStore
from pacs_node.journal import audit, feedback, studies, views
from pacs_node.journal.database import Database
from pacs_node.records import AuditEvent, Instance, InstanceState, Outcome, Point, StudyState
from pacs_node.report.text import as_text
from pacs_node.web import images
from pacs_node.web.access import asker, page
from pacs_node.web.pages import render, when
from pacs_node.web.users import Role

PARTS = ("answer", "record", "labels")
"""What of the page renews itself, each a template of its own."""
_PATIENT = {
    "PatientName": "Patient",
    "PatientID": "ID",
    "PatientBirthDate": "Born",
    "PatientSex": "Sex",
    "StudyDate": "Study date",
    "AccessionNumber": "Accession",
    "StudyDescription": "Description",
}
_UNTOLD = ("digest", "content_key", "model_key", "model_sha256", "results", "sha256", "who")
"""Details of audit events that a person can do nothing with here; `audit export` has them."""
_ACTIONS = {
    "retry": ({}, "What failed is tried again."),
    "amend": ({"new": True}, "A new report is being made; it replaces the one before."),
    "reanalyze": (
        {"reanalyze": True},
        "The images are being analyzed again; a new report replaces the one before.",
    ),
}
"""What `retry_study` is told, and the user."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What people read first; `kind` is positive, negative, none (not analyzed) or waiting."""

    kind: str
    headline: str
    lines: tuple[str, ...]


def study(request: Request) -> Response:
    """The whole page. Who may see patients looks at one, which is audited."""
    found, uid = _found(request), request.path_params["study"]
    if asker(request).role.may(Role.RADIOLOGIST):
        images.look(request, uid)
    return render(request, "study.html", **_context(request, found))


def part(request: Request) -> Response:
    """One of PARTS, for the page that renews itself."""
    name = request.path_params["part"]
    if name not in PARTS:
        raise HTTPException(404, "This page has no such part.")
    return render(request, f"study_{name}.html", **_context(request, _found(request)))


def act(request: Request) -> Response:
    """Try again, amend or analyze again, as an administrator confirmed."""
    found, what = _found(request), request.path_params["what"]
    if what not in _ACTIONS:
        raise HTTPException(404, "There is no such action.")
    if request.state.form.get("confirm") != "yes":
        raise HTTPException(400, "This wants to be confirmed.")
    uid = found["study_instance_uid"]
    options, told = _ACTIONS[what]
    studies.retry_study(request.app.state.database, uid, asker(request).name, **options)
    return done(request, uid, told)


def label(request: Request) -> Response:
    """Record what somebody says that a study or an image of it really shows."""
    found, form = _found(request), request.state.form
    uid, image = found["study_instance_uid"], str(form.get("image") or "") or None
    try:
        said = feedback.Label(str(form.get("label")))
        points = _points(str(form.get("region") or "[]"))
    except ValueError:
        raise HTTPException(400, "A label is positive, negative or uncertain; a place has corners.") from None
    database: Database = request.app.state.database
    known = {one.instance.sop_instance_uid: one for one in images.shown(request, uid, ())}
    if image is not None and image not in known:
        raise HTTPException(404, "This study has no such image.")
    if points and (image is None or not images.bounded(known[image], points)):
        raise HTTPException(400, "A marked place lies within one image.")
    given = feedback.Feedback(
        label=said,
        who=asker(request).name,
        study_instance_uid=uid,
        sop_instance_uid=image,
        # Said again after another label, the same words are a correction and no repetition.
        at=database.clock(),
        region=points,
        comment=str(form.get("comment") or "").strip()[:1000],
        source="web",
    )
    feedback.add(database, [given])
    return done(request, uid, "Thank you: recorded with your name.")


def _points(text: str) -> tuple[Point, ...]:
    """A polygon as JSON; ValueError where it is none."""
    try:
        return tuple((float(x), float(y)) for x, y in json.loads(text))
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def done(request: Request, uid: str, told: str) -> Response:
    """After a change: a line for the page that asked, which then renews itself; else the page again."""
    if "HX-Request" in request.headers:
        answer = render(request, "study_done.html", told=told)
        answer.headers["HX-Trigger"] = "renew"
        return answer
    return RedirectResponse(f"/studies/{quote(uid, safe='')}", status_code=303)


def _found(request: Request) -> dict[str, Any]:
    found = views.study(request.app.state.database, request.path_params["study"])
    if found is None:
        raise HTTPException(404, "No such study was received, or it was deleted after its retention time.")
    return found


def _context(request: Request, found: dict[str, Any]) -> dict[str, Any]:
    """All that the templates need; nothing about the patient where the user may not see it."""
    database: Database = request.app.state.database
    settings: Settings = request.app.state.settings
    uid = found["study_instance_uid"]
    may_see = asker(request).role.may(Role.RADIOLOGIST)
    events = list(audit.events(database, uid))
    pictures = images.shown(request, uid, events)
    every = studies.study_instances(database, uid)
    documents = [_document(request, one["sr_sha256"]) for one in found["reports"]]
    names = {one.instance.sop_instance_uid: one.name for one in pictures}
    names |= {one["sop_instance_uid"]: one["role"] for one in found["results"]}
    return {
        "study": found,
        "address": f"/studies/{quote(uid, safe='')}",
        "may_see": may_see,
        "may_act": asker(request).role.may(Role.ADMIN),
        "answer": _answer(found, every, documents[-1] if documents else None),
        "research": settings.report.label,
        "patient": _patient(pictures, every) if may_see else None,
        "images": pictures,
        "kinds": sorted(
            {f"{one.instance.modality}, {one.place}, {one.marker or 'unpaired'}" for one in pictures}
        ),
        "others": [one for one in every if one.sop_instance_uid not in names],
        "outcome": _outcome(pictures),
        "reports": [
            report | {"text": as_text(document) if document else ""}
            for report, document in zip(found["reports"], documents, strict=True)
        ][::-1],
        "labels": feedback.every(database, study=uid)[::-1],
        "names": names,
        "events": [_line(event, names) for event in events],
        "senders": sorted({f"{one.calling_ae_title} {one.address}".strip() or "unknown" for one in every}),
    }


def _document(request: Request, sha256: str | None) -> Dataset | None:
    """A report as it was stored; None where retention took it."""
    files: FileStore = request.app.state.files
    try:
        return reading.header(files.path(sha256)) if sha256 else None
    except FileNotFoundError:
        return None


def _answer(found: dict[str, Any], every: Sequence[Instance], document: Dataset | None) -> Answer:
    """In the words of the newest report; `document` is it, None where it is gone or there is none."""
    last = found["reports"][-1] if found["reports"] else None
    before = () if last is None else (f"The report of {when(last['created_at'])} said: {last['summary']}",)
    if found["state"] == StudyState.OPEN:
        waiting = sum(one.state == InstanceState.RECEIVED for one in every)
        why = "a new report is being made" if last else "not reported yet"
        lines = (f"{waiting} of {len(every)} objects wait to be analyzed.", *before)
        return Answer("waiting", f"IN PROGRESS: {why}", lines)
    if last is None or found["state"] in (StudyState.SKIPPED, StudyState.FAILED):
        return Answer("none", f"NOT ANALYZED: {found['reason'] or 'no reason was given'}", before)
    failed = sum(one.state == InstanceState.FAILED for one in every)
    gaps = [f"{failed} of {len(every)} objects could not be analyzed."] if failed else []
    gaps += [f"Not received: {len(found['missing'])} images of this study."] if found["missing"] else []
    said = str(document.get("SeriesDescription") or "") if document else ""
    lines = (last["summary"], *gaps)
    if last["outcome"] == Outcome.POSITIVE:
        return Answer("positive", said or "AI: Fracture suspected", lines)
    if last["outcome"] == Outcome.NEGATIVE:
        said = said or "AI: no fracture suspected"
        return Answer("negative", f"{said} – does not exclude a fracture", lines)
    return Answer("none", f"NOT ANALYZED: {found['reason'] or 'see the report'}", lines)


def _outcome(pictures: Sequence[images.Shown]) -> str:
    """What was said of the study as a whole, as `feedback` counts it."""
    outcomes = {one.outcome for one in pictures} - {""}
    return "positive" if "positive" in outcomes else "negative" if outcomes else ""


def _patient(pictures: Sequence[images.Shown], every: Sequence[Instance]) -> dict[str, str]:
    """Who it is, from the image received last; two patients in one study are both named."""
    newest = max(pictures, key=lambda one: one.instance.id, default=None)
    header = newest.header if newest else Dataset()
    told = {title: _date(str(header.get(keyword) or "")) for keyword, title in _PATIENT.items()}
    people = sorted({(one.patient_name, one.patient_id) for one in every})
    told["Patient"] = " / ".join(name.replace("^", " ").strip() or "no name" for name, _ in people)
    told["ID"] = " / ".join(number or "no ID" for _, number in people)
    return {title: value for title, value in told.items() if value}


def _date(text: str) -> str:
    """A DICOM date as 1980-01-31; any other text as it is."""
    return re.sub(r"^(\d{4})(\d\d)(\d\d)$", r"\1-\2-\3", text)


def _line(event: AuditEvent, names: dict[str, str]) -> dict[str, Any]:
    """One event of the audit log for people: when, what, of which object, who, and the details that tell."""
    told = {key: value for key, value in event.details.items() if key not in _UNTOLD}
    return {
        "at": event.at,
        "event": event.event.replace("_", " "),
        "object": names.get(event.sop_instance_uid or "", event.sop_instance_uid or ""),
        "who": event.details.get("who", ""),
        "details": ", ".join(
            f"{key.replace('_', ' ')} {_value(value)}"
            for key, value in told.items()
            if value not in (None, "", [], {})
        ),
    }


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_value(one)}" for key, one in value.items())
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


routes = [
    page("/studies/{study}", study, Role.VIEWER),
    page("/studies/{study}/parts/{part}", part, Role.VIEWER),
    page("/studies/{study}/labels", label, Role.RADIOLOGIST, "POST"),
    page("/studies/{study}/actions/{what}", act, Role.ADMIN, "POST"),
]
