"""The radiographs of a study for the viewer: pixels, heat maps, and each finding in words."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pacs_node.dicom import anatomy, reading
from pacs_node.errors import DecodeError, InputError
from pacs_node.files import FileStore
from pacs_node.journal import audit, feedback, studies, views
from pacs_node.receive import admission
from pacs_node.records import AuditEvent, AuditKind, ImageResult, Instance, InstanceState, Point
from pacs_node.report import facts, sc
from pacs_node.web.access import backend, page, user
from pacs_node.web.users import Role

LONGEST = 2048
"""Long side of the pixels sent to the viewer; a screen shows no more."""
LEVELS = 4095
"""The brightest value sent: 12 bits, so that a narrow window still has steps to show."""
THUMBNAIL, HEAT = 192, 512
"""Long sides of a thumbnail and of a heat map, which is far coarser than that."""
VIEW_SECONDS = 3600.0
"""Requests for images so long after their study's page was opened count as another view."""


@dataclass(frozen=True, slots=True)
class Radiograph:
    """One radiograph of a study, with its newest finding."""

    instance: Instance
    header: Dataset
    """Without pixel data; empty if the file is gone or unreadable."""
    last: views.LastFinding | None
    """None if it has not been analyzed."""
    model: dict[str, Any]
    """Audited details of the analysis, such as the threshold and the model's phrase; else empty."""
    name: str = ""
    """As in the report: "image 2, LL"."""
    place: str = ""
    side: anatomy.Side | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the image as stored; (0, 0) if they are not stated."""
        rows, columns = self.header.get("Rows"), self.header.get("Columns")
        return (rows, columns) if isinstance(rows, int) and isinstance(columns, int) else (0, 0)

    @property
    def outcome(self) -> str:
        """ "positive", "negative", or empty without a finding."""
        return "" if self.last is None else "positive" if self.last.finding.positive else "negative"

    @property
    def phrase(self) -> str:
        """The finding in the words of the model that made it."""
        return str(self.model.get("phrase") or self.outcome)

    @property
    def verdict(self) -> str:
        """The finding, or why there is none: never silence that reads as normal."""
        if self.last is None:
            is_waiting = self.instance.state == InstanceState.RECEIVED
            reason = self.instance.reason or "no reason was recorded"
            return "waiting to be analyzed" if is_waiting else f"NOT ANALYZED: {reason}"
        threshold = self.model.get("threshold")
        limit = "" if threshold is None else f" (threshold {facts.percent(threshold)})"
        return f"{self.phrase}, {facts.percent(self.last.finding.probability)}{limit}"

    @property
    def marker(self) -> str:
        """The side as stated in the header."""
        return self.side or ("" if anatomy.unpaired(self.header) else "side not stated")

    @property
    def description(self) -> str:
        """A description of the picture for screen readers."""
        regions = self.last.finding.regions if self.last else ()
        outlines = "; ".join(
            f"region {number}, peak of the map {region.score:.2f}: columns {left:.0f} to {right:.0f}, "
            f"rows {top:.0f} to {bottom:.0f}"
            for number, region in enumerate(regions, 1)
            for left, top, right, bottom in [region.box]
        )
        text = f"{self.name}, {self.place}, {self.marker or 'unpaired'}: {self.verdict}."
        return f"{text} {outlines.capitalize()}." if outlines else text

    def contains(self, points: Sequence[Point]) -> bool:
        """Whether a polygon encloses an area and lies within the image."""
        rows, columns = self.size
        return 3 <= len(points) <= 100 and all(0 <= x <= columns and 0 <= y <= rows for x, y in points)


def radiographs(request: Request, study: str, events: Iterable[AuditEvent] | None = None) -> list[Radiograph]:
    """A study's radiographs: highest probability first, those without a finding last.

    `events` are the study's audit events, if the caller has them already.
    """
    database = backend(request).database
    instances = [each for each in studies.study_instances(database, study) if is_radiograph(each)]
    last = views.last_findings(database, instances)
    models = audited_models(audit.events(database, study) if events is None else events)
    results = facts.in_order(
        ImageResult(
            each, header_of(backend(request).files, each), last[each.id].finding if each.id in last else None
        )
        for each in instances
    )
    # The report may count its images by their position.
    accounted = facts.images_to_report(results)
    ids = {result.instance.id for result in accounted}
    others = tuple(r for r in results if r.instance.id not in ids and r.instance.modality in ("CR", "DX"))
    names = (*facts.image_names(accounted), *facts.image_names(others))
    headers = [result.source for result in results]
    images = [
        Radiograph(
            instance=result.instance,
            header=result.source,
            last=last.get(result.instance.id),
            model=_model(result.instance, last, models),
            name=f"skipped {name}" if result.instance.state == InstanceState.SKIPPED else name,
            place=anatomy.place(result.source, side),
            side=side,
        )
        for result, name in zip((*accounted, *others), names, strict=True)
        for side in [anatomy.laterality(result.source, headers)]
    ]
    return sorted(images, key=lambda image: -image.last.finding.probability if image.last else 1)


def find(request: Request, study: str, image: str) -> Radiograph:
    """One radiograph of a study, without its name and place. Raises HTTPException 404."""
    database, files = backend(request).database, backend(request).files
    for instance in studies.study_instances(database, study):
        if instance.sop_instance_uid == image and is_radiograph(instance):
            last = views.last_findings(database, [instance])
            model = _model(instance, last, audited_models(audit.events(database, study)))
            return Radiograph(instance, header_of(files, instance), last.get(instance.id), model)
    raise HTTPException(404, "This study has no such image.")


def is_radiograph(instance: Instance) -> bool:
    may_be_xray = instance.modality in ("CR", "DX") or instance.sop_class_uid in admission.XRAY_CLASSES
    return may_be_xray or instance.state != InstanceState.SKIPPED


def audited_models(events: Iterable[AuditEvent]) -> dict[tuple[str | None, float], dict[str, Any]]:
    """The audited details of each analysis, by image and time."""
    kinds = (AuditKind.ANALYZED, AuditKind.FINDING_COPIED)
    return {(event.sop_instance_uid, event.at): event.details for event in events if event.event in kinds}


def _model(
    instance: Instance,
    last: dict[int, views.LastFinding],
    models: dict[tuple[str | None, float], dict[str, Any]],
) -> dict[str, Any]:
    finding = last.get(instance.id)
    return models.get((instance.sop_instance_uid, finding.at), {}) if finding else {}


def header_of(files: FileStore, instance: Instance) -> Dataset:
    try:
        return reading.header(files.path(instance.sha256))
    except (FileNotFoundError, DecodeError):
        return Dataset()


def record_view(request: Request, study: str, within: float = 0.0) -> None:
    """Audit that a user views a patient, unless the last view was less than `within` seconds ago."""
    database, who = backend(request).database, user(request).name
    since = database.clock() - within
    if within and any(
        event.event == AuditKind.STUDY_VIEWED and event.details["who"] == who and event.at > since
        for event in audit.events(database, study)
    ):
        return
    database.audit(AuditKind.STUDY_VIEWED, study, who=who)


def listing(request: Request) -> Response:
    """The images for the viewer, as JSON; coordinates are those of `records`."""
    study = request.path_params["study"]
    images = radiographs(request, study)
    if not images:
        raise HTTPException(404, "This study has no radiograph.")
    record_view(request, study, VIEW_SECONDS)
    marks: dict[str | None, list[dict[str, Any]]] = {}
    for label in feedback.every(backend(request).database, study=study):
        if label.region:
            mark = {"points": label.region, "text": f"{label.label} ({label.who})"}
            marks.setdefault(label.sop_instance_uid, []).append(mark)
    return JSONResponse([viewer_entry(study, image, marks) for image in images])


def viewer_entry(
    study: str, image: Radiograph, marks: dict[str | None, list[dict[str, Any]]]
) -> dict[str, Any]:
    uid = image.instance.sop_instance_uid
    address = f"/studies/{quote(study, safe='')}/images/{quote(uid, safe='')}"
    rows, columns = image.size
    height, width = sc.size(image.header, LONGEST) if rows and columns else (0, 0)
    regions = image.last.finding.regions if image.last else ()
    return {
        "uid": uid,
        "name": image.name,
        "verdict": image.verdict,
        "marker": image.marker,
        "text": image.description,
        "rows": rows,
        "columns": columns,
        "height": height,
        "width": width,
        "pixels": f"{address}/pixels",
        "thumbnail": f"{address}/thumbnail",
        "heat": f"{address}/heat?of={image.last.at}" if image.last and image.model else None,
        "regions": [{"points": region.polygon, "text": f"{region.score:.2f}"} for region in regions],
        "marks": marks.get(uid, []),
    }


def pixels(request: Request) -> Response:
    """The image as displayed: little-endian uint16, 0..LEVELS, row by row, in the listed size."""
    try:
        display = _display(request, LONGEST)
    except InputError as error:
        return Response(str(error), 409, media_type="text/plain")
    data = np.asarray(display * LEVELS + 0.5).astype("<u2").tobytes()
    encoding = {"Content-Encoding": "gzip"}
    return Response(gzip.compress(data, 1), headers=encoding, media_type="application/octet-stream")


def thumbnail(request: Request) -> Response:
    """The image as displayed, small, as PNG."""
    try:
        display = _display(request, THUMBNAIL)
    except InputError as error:
        return Response(str(error), 409, media_type="text/plain")
    return png_response(np.asarray(display * 255 + 0.5).astype(np.uint8))


def heat(request: Request) -> Response:
    """The heat map of the Secondary Capture, to be laid over the whole image, as PNG with transparency."""
    image = _requested(request)
    if image.last is None or not image.model or 0 in image.size:
        raise HTTPException(404, "This image has no finding, and so no heat map.")
    shape = sc.size(image.header, HEAT)
    values = sc.heat(image.last.finding, image.header, image.model["threshold"], shape)
    return png_response(np.asarray(cv2.cvtColor(sc.overlay(values), cv2.COLOR_RGBA2BGRA), np.uint8))


def _requested(request: Request) -> Radiograph:
    study = request.path_params["study"]
    image = find(request, study, request.path_params["image"])
    record_view(request, study, VIEW_SECONDS)
    return image


def _display(request: Request, longest: int) -> NDArray[np.float32]:
    """The requested image as displayed, 0..1, with square pixels. Raises InputError."""
    image = _requested(request)
    try:
        display = backend(request).display(image.instance.sha256)
    except FileNotFoundError:
        raise InputError("its file is gone") from None
    rows, columns = sc.size(image.header, longest)
    method = cv2.INTER_AREA if rows * columns < display.size else cv2.INTER_LINEAR
    return np.asarray(np.clip(cv2.resize(display, (columns, rows), interpolation=method), 0, 1), np.float32)


def png_response(picture: NDArray[np.uint8]) -> Response:
    return Response(cv2.imencode(".png", picture)[1].tobytes(), media_type="image/png")


_IMAGES = "/studies/{study}/images"
routes = [
    page(_IMAGES, listing, Role.RADIOLOGIST),
    page(f"{_IMAGES}/{{image}}/pixels", pixels, Role.RADIOLOGIST),
    page(f"{_IMAGES}/{{image}}/thumbnail", thumbnail, Role.RADIOLOGIST),
    page(f"{_IMAGES}/{{image}}/heat", heat, Role.RADIOLOGIST),
]
