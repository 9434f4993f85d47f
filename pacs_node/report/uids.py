"""UIDs that follow from content, so that a repeat is recognisably the same object.

Every UID is "2.25." and a version 5 UUID in the node's own namespace (PS3.5 B.2): the same node, role and
parts give the same UID for ever. Times and floating-point maps never take part.
"""

from __future__ import annotations

import hashlib
import json
from uuid import UUID, uuid5

from pydicom.uid import UID

from pacs_node import config
from pacs_node.records import ImageResult, ModelIdentity, NodeIdentity, Outcome, ReportRequest


def derive(node: NodeIdentity, role: str, *parts: str) -> UID:
    """The UID of what plays `role` for these parts, which are joined so that no two lists can be confused."""
    name = json.dumps([role, *parts], ensure_ascii=True)
    return UID(f"2.25.{uuid5(UUID(node.namespace), name).int}")


def settings_key(model: ModelIdentity, settings: config.ReportSettings) -> str:
    """What, beside the images and the weights, decides what the results say: a hash in hexadecimal."""
    said = [model.id, model.name, model.version, model.sha256, repr(model.threshold)]
    said += [model.finding.value, model.finding.scheme_designator, model.finding.meaning]
    said += [model.positive_phrase, model.negative_phrase, model.negative_caveat]
    said += [settings.iod, str(settings.max_size), settings.label]
    said += [] if model.scope_limit == 1 else [f"scope {model.scope_limit!r}"]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def sc(request: ReportRequest, image: ImageResult, settings: config.ReportSettings) -> UID:
    """SOP Instance UID of an image's Secondary Capture: the same in every revision of the study's report,
    unless new objects were asked for."""
    return derive(
        request.node,
        "SC",
        image.instance.sop_instance_uid,
        _content(image),
        settings_key(request.model, settings),
        *([str(request.renewed)] if request.renewed else []),
    )


def sc_series(request: ReportRequest, settings: config.ReportSettings, body_part: str) -> UID:
    """Series of a study's Secondary Captures: one for each BodyPartExamined, which belongs to the series."""
    key = settings_key(request.model, settings)
    return derive(request.node, "SC series", request.study_instance_uid, key, body_part)


def sr(request: ReportRequest, settings: config.ReportSettings, outcome: Outcome) -> UID:
    """SOP Instance UID of the study's Structured Report in this revision."""
    return derive(request.node, "SR", *_report(request, settings, outcome))


def sr_series(request: ReportRequest, settings: config.ReportSettings, outcome: Outcome) -> UID:
    """Series of the study's Structured Report: each revision has its own."""
    return derive(request.node, "SR series", *_report(request, settings, outcome))


def tracking(request: ReportRequest, image: ImageResult, region: int | None = None) -> UID:
    """Tracking Unique Identifier of an image's evaluation (region None) or of one of its regions (from 0)."""
    of = "image" if region is None else f"region {region}"
    return derive(
        request.node,
        "tracking",
        image.instance.sop_instance_uid,
        _content(image),
        request.model.sha256,
        of,
    )


def _report(request: ReportRequest, settings: config.ReportSettings, outcome: Outcome) -> list[str]:
    keys = sorted(f"{image.instance.sop_instance_uid} {_content(image)}" for image in request.images)
    key = settings_key(request.model, settings)
    return [request.study_instance_uid, *keys, key, outcome.value, str(request.revision)]


def _content(image: ImageResult) -> str:
    return image.finding.content_key if image.finding else f"not analyzed: {image.failure}"
