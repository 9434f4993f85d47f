"""The page of one study: its answer, findings, reports, deliveries and audit trail, labels and actions."""

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

from pacs_node.dicom import reading
from pacs_node.errors import DecodeError
from pacs_node.journal import audit, feedback, studies, views
from pacs_node.records import AuditEvent, Instance, InstanceState, Outcome, Point, StudyState
from pacs_node.report.sr import as_text
from pacs_node.web import images
from pacs_node.web.access import backend, page, user
from pacs_node.web.pages import person, render, when
from pacs_node.web.users import Role

PARTS = ("answer", "record", "labels")
"""The parts of the page that refresh themselves, each a template."""
_PATIENT = {
    "PatientName": "Patient",
    "PatientID": "ID",
    "PatientBirthDate": "Born",
    "PatientSex": "Sex",
    "StudyDate": "Study date",
    "AccessionNumber": "Accession",
    "StudyDescription": "Description",
}
_HIDDEN = (
    *("digest", "content_key", "model_key", "model_sha256", "results", "sha256"),
    *("who", "phrase", "caveat"),
)
"""Details of audit events that the page leaves out or shows elsewhere; `audit export` has them all."""
_ACTIONS = {
    "retry": ({}, "Everything that failed is retried."),
    "amend": ({"new": True}, "A new report is being made; it replaces the previous one."),
    "reanalyze": (
        {"reanalyze": True},
        "The images are being analyzed again; a new report replaces the previous one.",
    ),
}
"""The arguments of `retry_study`, and the message for the user."""


@dataclass(frozen=True, slots=True)
class Headline:
    """The answer as people read it first; `kind` is positive, negative, none (not analyzed) or waiting."""

    kind: str
    text: str
    lines: tuple[str, ...]


def study(request: Request) -> Response:
    """The whole page. Opening it counts as a view of the patient, unless the role may see none."""
    view = _view(request)
    if user(request).role.may(Role.RADIOLOGIST):
        images.record_view(request, view["study_instance_uid"])
    return render(request, "study.html", **_context(request, view))


def part(request: Request) -> Response:
    """One of PARTS, for a page that refreshes itself."""
    name = request.path_params["part"]
    if name not in PARTS:
        raise HTTPException(404, "This page has no such part.")
    return render(request, f"study_{name}.html", **_context(request, _view(request)))


def act(request: Request) -> Response:
    """Retry, amend or reanalyze the study, after the administrator's confirmation."""
    uid, action = _view(request)["study_instance_uid"], request.path_params["action"]
    if action not in _ACTIONS:
        raise HTTPException(404, "There is no such action.")
    if request.state.form.get("confirm") != "yes":
        raise HTTPException(400, "Please confirm this action.")
    options, message = _ACTIONS[action]
    studies.retry_study(backend(request).database, uid, user(request).name, **options)
    return _done(request, uid, message)


def label(request: Request) -> Response:
    """Record a user's label of the study or of one of its images."""
    uid, form = _view(request)["study_instance_uid"], request.state.form
    image = str(form.get("image") or "") or None
    try:
        value = feedback.Label(str(form.get("label")))
        points = polygon_of(str(form.get("region") or "[]"))
    except ValueError:
        raise HTTPException(
            400, "A label is positive, negative or uncertain; a region is a polygon."
        ) from None
    radiograph = images.find(request, uid, image) if image else None
    if points and not (radiograph and radiograph.contains(points)):
        raise HTTPException(400, "A marked region lies within one image.")
    database = backend(request).database
    given = feedback.Feedback(
        label=value,
        who=user(request).name,
        study_instance_uid=uid,
        sop_instance_uid=image,
        # With its time, the same label after a different one is a correction and not a repetition.
        at=database.clock(),
        region=points,
        comment=str(form.get("comment") or "").strip()[:1000],
        source="web",
    )
    feedback.add(database, [given])
    return _done(request, uid, "Thank you: recorded with your name.")


def polygon_of(text: str) -> tuple[Point, ...]:
    """A polygon from JSON. Raises ValueError."""
    try:
        return tuple((float(x), float(y)) for x, y in json.loads(text))
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def _done(request: Request, uid: str, message: str) -> Response:
    """The answer to a change: a message for the page, which then refreshes; else the page again."""
    if "HX-Request" in request.headers:
        answer = render(request, "study_done.html", message=message)
        answer.headers["HX-Trigger"] = "renew"
        return answer
    return RedirectResponse(f"/studies/{quote(uid, safe='')}", status_code=303)


def _view(request: Request) -> dict[str, Any]:
    view = views.study(backend(request).database, request.path_params["study"])
    if view is None:
        raise HTTPException(404, "No such study was received, or it was deleted after its retention time.")
    return view


def _context(request: Request, view: dict[str, Any]) -> dict[str, Any]:
    """The values of the templates, without the patient if the user may not see it."""
    database, uid = backend(request).database, view["study_instance_uid"]
    may_see = user(request).role.may(Role.RADIOLOGIST)
    events = list(audit.events(database, uid))
    radiographs = images.radiographs(request, uid, events)
    objects = studies.study_instances(database, uid)
    documents = [document_of(request, report["sr_sha256"]) for report in view["reports"]]
    names = {image.instance.sop_instance_uid: image.name for image in radiographs}
    names |= {result["sop_instance_uid"]: result["role"] for result in view["results"]}
    reports = [
        report | {"text": as_text(document) if document else ""}
        for report, document in zip(view["reports"], documents, strict=True)
    ]
    # The radiographs with a finding come first, a positive one before the others.
    worst = radiographs[0] if radiographs and radiographs[0].last else None
    positive = next((image for image in radiographs if image.outcome == "positive"), worst)
    return {
        "study": view,
        "address": f"/studies/{quote(uid, safe='')}",
        "may_see": may_see,
        "may_act": user(request).role.may(Role.ADMIN),
        "headline": headline_of(view, objects, documents[-1] if documents else None, worst),
        "research": backend(request).settings.report.label,
        "patient": patient_facts(radiographs, objects) if may_see else None,
        "images": radiographs,
        "kinds": sorted(
            {
                f"{image.instance.modality}, {image.place}, {image.marker or 'unpaired'}"
                for image in radiographs
            }
        ),
        "others": [each for each in objects if each.sop_instance_uid not in names],
        "outcome": positive.outcome if positive else "",
        "phrase": positive.phrase if positive else "",
        "concept": str(positive.model.get("finding") or "Finding") if positive else "Finding",
        "reports": reports[::-1],
        "labels": feedback.every(database, study=uid)[::-1],
        "names": names,
        "events": [timeline_entry(event, names) for event in events],
        "senders": sorted(
            {f"{each.calling_ae_title} {each.address}".strip() or "unknown" for each in objects}
        ),
    }


def document_of(request: Request, sha256: str | None) -> Dataset | None:
    """A stored report; None if it was deleted after its retention time, or is damaged."""
    try:
        return reading.header(backend(request).files.path(sha256)) if sha256 else None
    except (FileNotFoundError, DecodeError):
        return None


def headline_of(
    view: dict[str, Any],
    objects: Sequence[Instance],
    document: Dataset | None,
    worst: images.Radiograph | None,
) -> Headline:
    """The answer in the words of the newest report, whose `document` may be gone."""
    last = view["reports"][-1] if view["reports"] else None
    previous = (f"The report of {when(last['created_at'])}: {last['summary']}",) if last else ()
    if view["state"] == StudyState.OPEN:
        waiting = sum(each.state == InstanceState.RECEIVED for each in objects)
        why = "a new report is being made" if last else "not reported yet"
        lines = (f"{waiting} of {len(objects)} objects wait to be analyzed.", *previous)
        return Headline("waiting", f"IN PROGRESS: {why}", lines)
    if last is None or view["state"] in (StudyState.SKIPPED, StudyState.FAILED):
        return Headline("none", f"NOT ANALYZED: {view['reason'] or 'no reason was recorded'}", previous)
    failed = sum(each.state == InstanceState.FAILED for each in objects)
    gaps = [f"{failed} of {len(objects)} objects could not be analyzed."] if failed else []
    gaps += [f"Not received: {len(view['missing'])} images of this study."] if view["missing"] else []
    lines = (last["summary"], *gaps)
    if last["outcome"] == Outcome.FAILED:
        return Headline("none", f"NOT ANALYZED: {view['reason'] or 'see the report'}", lines)
    text = str(document.get("SeriesDescription") or "") if document else ""
    # Without its document, the report's summary begins with the same words.
    text = text or str(last["summary"]).partition(" (")[0]
    if last["outcome"] == Outcome.POSITIVE:
        return Headline("positive", text, lines)
    caveat = str(worst.model.get("caveat") or "") if worst else ""
    return Headline("negative", f"{text}. {caveat}" if caveat else text, lines)


def patient_facts(radiographs: Sequence[images.Radiograph], objects: Sequence[Instance]) -> dict[str, str]:
    """The patient, from the newest image; two patients in one study are both named."""
    newest = max(radiographs, key=lambda image: image.instance.id, default=None)
    header = newest.header if newest else Dataset()
    # Dates as 1980-01-31.
    facts = {
        title: re.sub(r"^(\d{4})(\d\d)(\d\d)$", r"\1-\2-\3", str(header.get(keyword) or ""))
        for keyword, title in _PATIENT.items()
    }
    people = sorted({(each.patient_name, each.patient_id) for each in objects})
    facts["Patient"] = " / ".join(person(name) or "no name" for name, _ in people)
    facts["ID"] = " / ".join(number or "no ID" for _, number in people)
    return {title: value for title, value in facts.items() if value}


def timeline_entry(event: AuditEvent, names: dict[str, str]) -> dict[str, Any]:
    """An audit event for people: time, kind, object, user and the details of interest."""
    uid = event.sop_instance_uid or ""
    return {
        "at": event.at,
        "event": event.event.replace("_", " "),
        "object": names.get(uid, uid),
        "who": event.details.get("who", ""),
        "details": ", ".join(
            f"{key.replace('_', ' ')} {_text(value)}"
            for key, value in event.details.items()
            if key not in _HIDDEN and value not in (None, "", [], {})
        ),
    }


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_text(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


routes = [
    page("/studies/{study}", study, Role.VIEWER),
    page("/studies/{study}/parts/{part}", part, Role.VIEWER),
    page("/studies/{study}/labels", label, Role.RADIOLOGIST, "POST"),
    page("/studies/{study}/actions/{action}", act, Role.ADMIN, "POST"),
]
