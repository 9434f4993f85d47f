"""A study's images as the viewer shows them: pixels, heat maps, and what was said of each in words."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
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
from pacs_node.journal.database import Database
from pacs_node.receive import admission
from pacs_node.records import AuditEvent, AuditKind, ImageResult, Instance, InstanceState, Point
from pacs_node.report import sc, source, wording
from pacs_node.web.access import asker, page
from pacs_node.web.users import Role

if TYPE_CHECKING:
    from pacs_node.web.app import Services

LONGEST = 2048
"""Long side of what is sent, in pixels; a screen shows no more."""
LEVELS = 4095
"""The brightest value that is sent: 12 bits, so that a narrow window still has steps to show."""
THUMBNAIL, HEAT = 192, 512
"""Long sides of a thumbnail and of a heat map; the map is far coarser than that."""
LOOK_SECONDS = 3600.0
"""Images that are asked for so long after their study's page was looked at are another look."""
_RADIOGRAPHS = ("CR", "DX")


@dataclass(frozen=True, slots=True)
class Shown:
    """One radiograph of a study, with what was last said of it."""

    instance: Instance
    header: Dataset
    """Without pixel data; empty where the file is gone."""
    name: str
    """As in the report: "image 2, LL"."""
    place: str
    side: anatomy.Side | None
    said: views.LastFinding | None
    """None where it is not analyzed (yet)."""
    model: dict[str, Any]
    """The audited details of the analysis: model, model_version, model_sha256, threshold; else empty."""

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the image as stored; (0, 0) where it does not say."""
        rows, columns = self.header.get("Rows"), self.header.get("Columns")
        return (rows, columns) if isinstance(rows, int) and isinstance(columns, int) else (0, 0)

    @property
    def outcome(self) -> str:
        """ "positive", "negative", or nothing where nothing was said."""
        return "" if self.said is None else "positive" if self.said.finding.positive else "negative"

    @property
    def verdict(self) -> str:
        """What was said of it, or why nothing was: never silence that reads as normal."""
        if self.said is None:
            waits = self.instance.state == InstanceState.RECEIVED
            return (
                "waiting to be analyzed" if waits else f"NOT ANALYZED: {self.instance.reason or 'no reason'}"
            )
        finding, limit = self.said.finding, self.model.get("threshold")
        words = "Fracture suspected" if finding.positive else "no fracture suspected"
        against = "" if limit is None else f" (threshold {wording.percent(limit)})"
        return f"{words}, {wording.percent(finding.probability)}{against}"

    @property
    def marker(self) -> str:
        """The side as the header states it."""
        if self.side:
            return self.side
        return "" if anatomy.unpaired(self.header) else "side not stated"

    @property
    def text(self) -> str:
        """The picture in words, for who cannot see it."""
        regions = self.said.finding.regions if self.said else ()
        outlines = [
            f"region {number}, peak of the map {region.score:.2f}: columns {left:.0f} to {right:.0f}, "
            f"rows {top:.0f} to {bottom:.0f}"
            for number, region in enumerate(regions, 1)
            for left, top, right, bottom in [region.box]
        ]
        told = f"{self.name}, {self.place}, {self.marker or 'unpaired'}: {self.verdict}."
        return " ".join([told, *(["; ".join(outlines).capitalize() + "."] if outlines else [])])


def shown(request: Request, study: str, events: Sequence[AuditEvent]) -> list[Shown]:
    """A study's radiographs, the worst first as the report counts them, those without an answer last.

    `events` are the study's, of the audit log.
    """
    database: Database = request.app.state.database
    every = studies.study_instances(database, study)
    said = views.last_findings(database, every)
    told = _models(events)
    radiographs = [one for one in every if _is_radiograph(one)]
    results = source.in_order(
        ImageResult(one, _header(request, one), said[one.id].finding if one.id in said else None)
        for one in radiographs
    )
    # The report may count its images by their position.
    counted = source.accounted(results)
    ids = {image.instance.id for image in counted}
    left_out = tuple(
        image for image in results if image.instance.id not in ids and image.instance.modality in _RADIOGRAPHS
    )
    headers = [image.source for image in results]
    images = []
    for group in (counted, left_out):
        for image, name in zip(group, source.image_names(group), strict=True):
            before = "skipped " if image.instance.state == InstanceState.SKIPPED else ""
            last = said.get(image.instance.id)
            model = told.get((image.instance.sop_instance_uid, last.at), {}) if last else {}
            side = anatomy.laterality(image.source, headers)
            place = anatomy.place(image.source, headers)
            images.append(Shown(image.instance, image.source, before + name, place, side, last, model))
    return sorted(images, key=lambda one: -one.said.finding.probability if one.said else 1)


def _is_radiograph(instance: Instance) -> bool:
    may_be_xray = instance.modality in _RADIOGRAPHS or instance.sop_class_uid in admission.XRAY_CLASSES
    return may_be_xray or instance.state != InstanceState.SKIPPED


def _models(events: Iterable[AuditEvent]) -> dict[tuple[str | None, float], dict[str, Any]]:
    """The audited details of each analysis by image and time: model, model_version, threshold."""
    kinds = (AuditKind.ANALYZED, AuditKind.FINDING_COPIED)
    return {(event.sop_instance_uid, event.at): event.details for event in events if event.event in kinds}


def _header(request: Request, instance: Instance) -> Dataset:
    files: FileStore = request.app.state.files
    try:
        return reading.header(files.path(instance.sha256))
    except (FileNotFoundError, DecodeError):
        return Dataset()


def look(request: Request, study: str, within: float = 0.0) -> None:
    """Write down that somebody looks at a patient, unless they did within so many seconds."""
    database: Database = request.app.state.database
    who, since = asker(request).name, database.clock() - within
    if within and any(
        event.event == AuditKind.STUDY_VIEWED and event.details["who"] == who and event.at > since
        for event in audit.events(database, study)
    ):
        return
    database.audit(AuditKind.STUDY_VIEWED, study, who=who)


def one(request: Request) -> Shown:
    """The image that a request names, a look at its patient. Raises HTTPException 404."""
    database: Database = request.app.state.database
    study, uid = request.path_params["study"], request.path_params["image"]
    for instance in studies.study_instances(database, study):
        if instance.sop_instance_uid == uid and _is_radiograph(instance):
            look(request, study, LOOK_SECONDS)
            last = views.last_findings(database, [instance]).get(instance.id)
            model = _models(audit.events(database, study)).get((uid, last.at), {}) if last else {}
            return Shown(instance, _header(request, instance), "", "", None, last, model)
    raise HTTPException(404, "This study has no such image.")


def listing(request: Request) -> Response:
    """What the viewer must know of each image, as JSON; coordinates are those of `records`."""
    database: Database = request.app.state.database
    study = request.path_params["study"]
    images = shown(request, study, list(audit.events(database, study)))
    if not images:
        raise HTTPException(404, "This study has no radiograph.")
    look(request, study, LOOK_SECONDS)
    marks: dict[str | None, list[dict[str, Any]]] = {}
    for label in feedback.every(database, study=study):
        if label.region:
            mark = {"points": label.region, "text": f"{label.label} ({label.who})"}
            marks.setdefault(label.sop_instance_uid, []).append(mark)
    return JSONResponse([_listed(study, image, marks) for image in images])


def _listed(study: str, image: Shown, marks: dict[str | None, list[dict[str, Any]]]) -> dict[str, Any]:
    uid = image.instance.sop_instance_uid
    address = f"/studies/{quote(study, safe='')}/images/{quote(uid, safe='')}"
    rows, columns = image.size
    height, width = sc.size(image.header, LONGEST) if rows and columns else (0, 0)
    regions = image.said.finding.regions if image.said else ()
    return {
        "uid": uid,
        "name": image.name,
        "verdict": image.verdict,
        "marker": image.marker,
        "text": image.text,
        "rows": rows,
        "columns": columns,
        "height": height,
        "width": width,
        "pixels": f"{address}/pixels",
        "thumbnail": f"{address}/thumbnail",
        "heat": f"{address}/heat?of={image.said.at}" if image.said and image.model else None,
        "regions": [{"points": region.polygon, "text": f"{region.score:.2f}"} for region in regions],
        "marks": marks.get(uid, []),
    }


def pixels(request: Request) -> Response:
    """The image as displayed: little-endian uint16, 0..LEVELS, row by row, of the listed height and width."""
    try:
        display = _display(request, one(request), LONGEST)
    except InputError as error:
        return Response(str(error), 409, media_type="text/plain")
    data = np.asarray(display * LEVELS + 0.5).astype("<u2").tobytes()
    encoding = {"Content-Encoding": "gzip"}
    return Response(gzip.compress(data, 1), headers=encoding, media_type="application/octet-stream")


def thumbnail(request: Request) -> Response:
    """The image as displayed, small, as PNG."""
    try:
        display = _display(request, one(request), THUMBNAIL)
    except InputError as error:
        return Response(str(error), 409, media_type="text/plain")
    return _png(np.asarray(display * 255 + 0.5).astype(np.uint8))


def heat(request: Request) -> Response:
    """The heat map as in the Secondary Capture, to be laid over the whole image, as PNG with transparency."""
    image = one(request)
    if image.said is None or not image.model:
        raise HTTPException(404, "Nothing was said of this image, so it has no heat map.")
    shape = sc.size(image.header, HEAT)
    values = sc.heat(image.said.finding, image.header, image.model["threshold"], shape)
    return _png(np.asarray(cv2.cvtColor(sc.overlay(values), cv2.COLOR_RGBA2BGRA), np.uint8))


def _display(request: Request, image: Shown, longest: int) -> NDArray[np.float32]:
    """The image as displayed, 0..1, with square pixels. Raises InputError."""
    services: Services = request.app.state.services
    try:
        display = services.display(image.instance.sha256)
    except FileNotFoundError:
        raise InputError("its file is gone") from None
    rows, columns = sc.size(image.header, longest)
    how = cv2.INTER_AREA if rows * columns < display.size else cv2.INTER_LINEAR
    return np.asarray(np.clip(cv2.resize(display, (columns, rows), interpolation=how), 0, 1), np.float32)


def _png(picture: NDArray[np.uint8]) -> Response:
    return Response(cv2.imencode(".png", picture)[1].tobytes(), media_type="image/png")


def bounded(image: Shown, points: Sequence[Point]) -> bool:
    """Whether a polygon has an area's corners and lies within the image."""
    rows, columns = image.size
    return 3 <= len(points) <= 100 and all(0 <= x <= columns and 0 <= y <= rows for x, y in points)


_IMAGES = "/studies/{study}/images"
routes = [
    page(_IMAGES, listing, Role.RADIOLOGIST),
    *(
        page(f"{_IMAGES}/{{image}}/{handler.__name__}", handler, Role.RADIOLOGIST)
        for handler in (pixels, thumbnail, heat)
    ),
]
