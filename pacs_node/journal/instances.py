"""The queue of images to analyze."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import sqlalchemy as sa

from pacs_node.heatmap import HeatMap
from pacs_node.journal import queue
from pacs_node.journal.database import Database
from pacs_node.journal.schema import (
    FindingRow,
    InstanceRow,
    StudyRow,
)
from pacs_node.journal.transaction import Transaction
from pacs_node.records import (
    Analysis,
    AuditKind,
    Finding,
    Instance,
    InstanceState,
    ModelIdentity,
    Region,
)


def claim_instances(database: Database, limit: int) -> queue.Claim[Instance] | None:
    """Images to analyze, oldest first, across studies. One that failed before is claimed alone."""
    query = (
        sa.select(InstanceRow.id, InstanceRow.attempts)
        .where(queue.claimable(InstanceRow, InstanceState.RECEIVED, database.clock()))
        .order_by(InstanceRow.attempts, InstanceRow.id)
        .limit(limit)
    )
    with database.read() as connection:
        if connection.execute(query).first() is None:
            return None
    with database.write() as t:
        due = t.execute(queue.locked(query, InstanceRow)).all()
        if not due:
            return None
        ids = [row.id for row in due if row.attempts == 0] or [due[0].id]
        token = queue.lease(t, InstanceRow, ids)
        return queue.Claim(token, tuple(list_instances(t.connection, InstanceRow.id.in_(ids))))


def versions_before(database: Database, instances: Sequence[Instance]) -> dict[int, Instance]:
    """What came before under the same SOPInstanceUID with other bytes, the newest, by the image's id."""
    uids = [instance.sop_instance_uid for instance in instances]
    with database.read() as connection:
        versions = list_instances(connection, InstanceRow.sop_instance_uid.in_(uids))
    before = {}
    for instance in instances:
        for version in versions:
            if version.sop_instance_uid == instance.sop_instance_uid and version.id < instance.id:
                before[instance.id] = version
    return before


def known_findings(
    database: Database, sop_instance_uids: Sequence[str], model: ModelIdentity
) -> dict[str, dict[str, Finding]]:
    """What this model said of any version of these images, by SOPInstanceUID and content key."""
    query = (
        sa.select(InstanceRow.sop_instance_uid, FindingRow.__table__)
        .join(InstanceRow, InstanceRow.id == FindingRow.instance_id)
        .where(InstanceRow.sop_instance_uid.in_(sop_instance_uids), FindingRow.model_key == model.key)
    )
    known: dict[str, dict[str, Finding]] = {}
    with database.read() as connection:
        for row in connection.execute(query):
            known.setdefault(row.sop_instance_uid, {})[row.content_key] = finding_of(row)
    return known


def finish_instances(
    database: Database, token: str, model: ModelIdentity, analyses: Sequence[Analysis]
) -> int:
    """Record what came of images, in one transaction; returns for how many of them the lease still held."""
    finished = 0
    with database.write() as t:
        contents = _contents(t.connection, [analysis.instance.sop_instance_uid for analysis in analyses])
        for analysis in analyses:
            without = InstanceState.SKIPPED if analysis.skipped else InstanceState.FAILED
            state = InstanceState.ANALYZED if analysis.finding else without
            instance = analysis.instance
            if not queue.finish(t, InstanceRow, instance.id, token, state=state, reason=analysis.failure):
                continue
            finished += 1
            uids = (instance.study_instance_uid, instance.sop_instance_uid)
            if analysis.finding is None:
                event = AuditKind.ANALYSIS_SKIPPED if analysis.skipped else AuditKind.ANALYSIS_FAILED
                scope: dict[str, Any] = {} if analysis.scope is None else {"scope": analysis.scope}
                t.audit(event, *uids, reason=analysis.failure, model=model.id, **scope)
            else:
                _compare(t, analysis, contents.setdefault(instance.sop_instance_uid, {}))
                _keep_finding(t, analysis, model, analysis.finding)
    return finished


def _contents(connection: sa.Connection, sop_instance_uids: Sequence[str]) -> dict[str, dict[int, str]]:
    """The content keys of the analyzed versions of these images: by SOPInstanceUID, then by instance id."""
    query = (
        sa.select(InstanceRow.sop_instance_uid, InstanceRow.id, FindingRow.content_key)
        .join(FindingRow, FindingRow.instance_id == InstanceRow.id)
        .where(InstanceRow.sop_instance_uid.in_(sop_instance_uids))
    )
    contents: dict[str, dict[int, str]] = {}
    for uid, id_, content_key in connection.execute(query):
        contents.setdefault(uid, {})[id_] = content_key
    return contents


def _compare(t: Transaction, analysis: Analysis, versions: dict[int, str]) -> None:
    """Audit how an image that was analyzed first now differs from the newest other version of it."""
    instance, finding = analysis.instance, analysis.finding
    if finding is None or instance.id in versions:
        return
    uids = (instance.study_instance_uid, instance.sop_instance_uid)
    other = versions[max(versions)] if versions else None
    versions[instance.id] = finding.content_key
    if other == finding.content_key:
        t.audit(AuditKind.HEADER_CHANGED, *uids, changed=list(analysis.changed))
    elif other is not None:
        keys = {"content_key": finding.content_key, "other_content_key": other}
        t.audit(AuditKind.CONTENT_CONFLICT, *uids, **keys, changed=list(analysis.changed))


def _keep_finding(t: Transaction, analysis: Analysis, model: ModelIdentity, finding: Finding) -> None:
    instance = analysis.instance
    t.execute(
        sa.delete(FindingRow).where(FindingRow.instance_id == instance.id, FindingRow.model_key == model.key)
    )
    t.execute(
        sa.insert(FindingRow).values(
            instance_id=instance.id,
            model_key=model.key,
            content_key=finding.content_key,
            probability=finding.probability,
            positive=finding.positive,
            heat_map=finding.heat_map.to_bytes(),
            regions=json.dumps([[region.polygon, region.score] for region in finding.regions]),
            notes=json.dumps(finding.notes),
            created_at=t.now,
            model_id=model.id,
            station=finding.station,
            brightness=finding.brightness,
        )
    )
    t.audit(
        AuditKind.FINDING_COPIED if analysis.copied else AuditKind.ANALYZED,
        instance.study_instance_uid,
        instance.sop_instance_uid,
        model=model.id,
        model_version=model.version,
        model_sha256=model.sha256,
        threshold=model.threshold,
        probability=finding.probability,
        positive=finding.positive,
        content_key=finding.content_key,
        notes=list(finding.notes),
        **({} if analysis.scope is None else {"scope": analysis.scope}),
    )


def postpone_instances(
    database: Database, claim: queue.Claim[Instance], seconds: float, why: str, *, counts: bool = True
) -> None:
    """Give images back after an attempt that told nothing about them, to be tried again later.

    `counts`: as an attempt, and then alone.
    """
    with database.write() as t:
        for instance in claim.items:
            later = {"due_at": t.now + seconds, "reason": why, "attempts": instance.attempts - (not counts)}
            if queue.finish(t, InstanceRow, instance.id, claim.token, **later):
                t.audit(
                    AuditKind.ANALYSIS_POSTPONED,
                    instance.study_instance_uid,
                    instance.sop_instance_uid,
                    why=why,
                )


def reopen_instances(database: Database, instances: Sequence[Instance], why: str) -> None:
    """Let analyzed images be analyzed again."""
    with database.write() as t:
        for instance in instances:
            t.execute(
                sa.update(InstanceRow)
                .where(InstanceRow.id == instance.id)
                .values(state=InstanceState.RECEIVED, reason=None, due_at=t.now, attempts=0)
            )
            t.audit(
                AuditKind.ANALYSIS_REOPENED,
                instance.study_instance_uid,
                instance.sop_instance_uid,
                why=why,
            )


def list_instances(connection: sa.Connection, where: sa.ColumnElement[bool]) -> list[Instance]:
    """Registered objects, in the order of their arrival."""
    names = [field.name for field in fields(Instance) if field.name != "study_instance_uid"]
    query = (
        sa.select(StudyRow.study_instance_uid, *(getattr(InstanceRow, name) for name in names))
        .join(StudyRow, StudyRow.id == InstanceRow.study_id)
        .where(where)
        .order_by(InstanceRow.id)
    )
    return [
        Instance(**{**row, "state": InstanceState(row["state"])})
        for row in connection.execute(query).mappings()
    ]


def finding_of(row: Any) -> Finding:
    """The finding that a row of FindingRow's columns keeps."""
    return Finding(
        content_key=row.content_key,
        probability=row.probability,
        positive=row.positive,
        heat_map=HeatMap.from_bytes(row.heat_map),
        regions=tuple(
            Region(tuple((x, y) for x, y in polygon), score) for polygon, score in json.loads(row.regions)
        ),
        notes=tuple(json.loads(row.notes)),
        station=row.station,
        brightness=row.brightness,
    )
