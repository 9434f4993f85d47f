"""UIDs that follow from content, so that a repeat is recognisably the same object.

Every UID is "2.25." and a version 5 UUID in the node's own namespace (PS3.5 B.2): the same node, role and
parts always give the same UID. Times and floating-point maps never take part.
"""

from __future__ import annotations

import hashlib
import json
from uuid import UUID, uuid5

from pydicom.uid import UID

from pacs_node import config
from pacs_node.records import ImageResult, ModelIdentity, NodeIdentity
from pacs_node.report.facts import ReportFacts


def derive(node: NodeIdentity, role: str, *parts: str) -> UID:
    """The UID of an object of this role made from these parts; no two lists of parts are confused."""
    name = json.dumps([role, *parts], ensure_ascii=True)
    return UID(f"2.25.{uuid5(UUID(node.namespace), name).int}")


def settings_key(model: ModelIdentity, settings: config.ReportSettings) -> str:
    """Hash, in hexadecimal, of everything besides the images and weights that decides what results say."""
    values = [model.id, model.name, model.version, model.sha256, repr(model.threshold)]
    values += [model.finding.value, model.finding.scheme_designator, model.finding.meaning]
    values += [model.positive_phrase, model.negative_phrase, model.negative_caveat]
    values += [settings.iod, str(settings.max_size), settings.label]
    values += [] if model.scope_limit == 1 else [f"scope {model.scope_limit!r}"]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def sc(facts: ReportFacts, image: ImageResult) -> UID:
    """SOP Instance UID of an image's Secondary Capture: the same in every revision of the study's report,
    unless new objects were asked for."""
    renewed = [str(facts.request.renewed)] if facts.request.renewed else []
    return _of_image(facts, "SC", image, settings_key(facts.model, facts.settings), *renewed)


def sc_series(facts: ReportFacts, body_part: str) -> UID:
    """Series of a study's Secondary Captures: one for each BodyPartExamined, which belongs to the series."""
    request = facts.request
    key = settings_key(facts.model, facts.settings)
    return derive(request.node, "SC series", request.study_instance_uid, key, body_part)


def sr(facts: ReportFacts) -> UID:
    """SOP Instance UID of the study's Structured Report in this revision."""
    return _of_report(facts, "SR")


def sr_series(facts: ReportFacts) -> UID:
    """Series of the study's Structured Report: each revision has its own."""
    return _of_report(facts, "SR series")


def tracking(facts: ReportFacts, image: ImageResult, region: int | None = None) -> UID:
    """Tracking Unique Identifier of an image's evaluation (region None) or of one of its regions (from 0)."""
    part = "image" if region is None else f"region {region}"
    return _of_image(facts, "tracking", image, facts.model.sha256, part)


def _of_image(facts: ReportFacts, role: str, image: ImageResult, *parts: str) -> UID:
    return derive(facts.request.node, role, image.instance.sop_instance_uid, _content(image), *parts)


def _of_report(facts: ReportFacts, role: str) -> UID:
    request = facts.request
    images = sorted(f"{image.instance.sop_instance_uid} {_content(image)}" for image in request.images)
    key = settings_key(facts.model, facts.settings)
    parts = [request.study_instance_uid, *images, key, facts.outcome.value, str(request.revision)]
    return derive(request.node, role, *parts)


def _content(image: ImageResult) -> str:
    return image.finding.content_key if image.finding else f"not analyzed: {image.failure}"
