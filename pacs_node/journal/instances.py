"""Received objects: their registration, and the queue of images to analyze."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

import sqlalchemy as sa

from pacs_node.heatmap import HeatMap
from pacs_node.journal import queue
from pacs_node.journal.database import Database, insert_new
from pacs_node.journal.queue import Claim
from pacs_node.journal.schema import AuditRow, FindingRow, InstanceRow, StudyRow, select_instances
from pacs_node.journal.transaction import Transaction
from pacs_node.records import (
    Analysis,
    Arrival,
    AuditKind,
    Finding,
    Instance,
    InstanceState,
    ModelIdentity,
    Region,
    StudyState,
)

_AUDITED = (
    *("sha256", "size", "modality", "calling_ae_title", "called_ae_title", "address"),
    "transfer_syntax_uid",
)
_CHANGING = ("state", "reason", "revision", "attempts", "due_at", "last_received_at")
"""Columns of a study that an arrival may change."""


def register(database: Database, arrivals: Sequence[Arrival], quiet_seconds: float) -> None:
    """Record arrivals in one transaction; safe to repeat for the same arrivals, also by several processes.

    An arrival is identified by its object, its bytes and its time: a second registration does nothing. An
    image to be analyzed opens its study again and restarts the quiet period. The same object with the same
    bytes is only audited. A skipped X-ray opens its study as well, for the report must account for it; any
    other skipped object never opens a closed study: the node's own results come back.

    The batch takes few statements: the intake shares its process with the storage SCP, and a statement for
    each row would cost the SCP half its speed.
    """
    with database.write() as t:
        studies = _lock_studies(t, arrivals)
        # Read while the studies are locked: everything registered before is seen, and nothing comes after.
        versions: dict[str, dict[str, float]] = {}
        query = sa.select(InstanceRow.sop_instance_uid, InstanceRow.sha256, InstanceRow.received_at).where(
            InstanceRow.sop_instance_uid.in_({arrival.sop_instance_uid for arrival in arrivals})
        )
        for uid, sha256, received_at in t.execute(query):
            versions.setdefault(uid, {})[sha256] = received_at
        rows = []
        for arrival in arrivals:
            values = arrival.received()
            details = {key: values[key] for key in _AUDITED}
            known = versions.setdefault(arrival.sop_instance_uid, {})
            if arrival.sha256 in known:
                if known[arrival.sha256] != arrival.received_at:
                    t.audit(AuditKind.DUPLICATE_RECEIVED, *arrival.uids, **details)
                continue
            others = {"other_versions": sorted(known)} if known else {}
            t.audit(AuditKind.RECEIVED, *arrival.uids, **details, **others)
            study = studies[values.pop("study_instance_uid")]
            study["last_received_at"] = arrival.received_at
            if arrival.skip_reason:
                t.audit(AuditKind.SKIPPED, *arrival.uids, reason=arrival.skip_reason)
                values["state"] = InstanceState.SKIPPED
            else:
                values["state"] = InstanceState.RECEIVED
            if arrival.may_be_xray or not arrival.skip_reason:
                study |= {"state": StudyState.OPEN, "reason": None, "attempts": 0}
                study["revision"] += 1
            if study["state"] == StudyState.OPEN:
                study["due_at"] = t.now + quiet_seconds
            rows.append(values | {"study_id": study["id"], "reason": arrival.skip_reason, "due_at": t.now})
            known[arrival.sha256] = arrival.received_at
        if rows:
            t.execute(sa.insert(InstanceRow), rows)
            changes = [
                {"study_id": study["id"], **{name: study[name] for name in _CHANGING}}
                for study in studies.values()
            ]
            t.execute(sa.update(StudyRow).where(StudyRow.id == sa.bindparam("study_id")), changes)


def _lock_studies(t: Transaction, arrivals: Sequence[Arrival]) -> dict[str, dict[str, Any]]:
    """The arrivals' studies by UID, locked; missing ones are made.

    Every process locks them in the order of their UIDs, so that no two wait for each other for ever.
    """
    first = {arrival.study_instance_uid: arrival.received_at for arrival in reversed(arrivals)}
    query = (
        sa.select(StudyRow.study_instance_uid, StudyRow.id, *(getattr(StudyRow, name) for name in _CHANGING))
        .where(StudyRow.study_instance_uid.in_(first))
        .order_by(StudyRow.study_instance_uid)
    )
    known = set(t.execute(query).scalars())
    new = [
        {
            "study_instance_uid": uid,
            "state": StudyState.OPEN,
            "due_at": 0.0,
            "first_received_at": first[uid],
            "last_received_at": first[uid],
        }
        for uid in sorted(first.keys() - known)
    ]
    if new:
        t.execute(insert_new(t, StudyRow), new)
    rows = t.execute(query.with_for_update()).mappings()
    return {row["study_instance_uid"]: dict(row) for row in rows}


def claim_instances(database: Database, limit: int) -> Claim[Instance] | None:
    """Images to analyze, oldest first, across studies. One that failed before is claimed alone."""
    due = (
        sa.select(InstanceRow.id, InstanceRow.attempts)
        .where(queue.claimable(InstanceRow, InstanceState.RECEIVED, database.clock()))
        .order_by(InstanceRow.attempts, InstanceRow.id)
        .limit(limit)
    )

    def pick(t: Transaction) -> list[int]:
        rows = t.execute(queue.locked(due, InstanceRow)).all()
        return [row.id for row in rows if row.attempts == 0] or [row.id for row in rows[:1]]

    def load(t: Transaction, ids: Sequence[int]) -> list[Instance]:
        return list_instances(t.connection, InstanceRow.id.in_(ids))

    return queue.claim(database, InstanceRow, due, pick, load)


def versions_before(database: Database, instances: Sequence[Instance]) -> dict[int, Instance]:
    """By image id, the newest earlier version: the same SOPInstanceUID with other bytes."""
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
    """This model's findings in all versions of these images, by SOPInstanceUID and content key."""
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
    """Record the analyses of images in one transaction; returns how many of them the lease still held."""
    finished = 0
    with database.write() as t:
        # The content keys of the versions analyzed before: by SOPInstanceUID, then by instance id.
        contents: dict[str, dict[int, str]] = {}
        query = (
            sa.select(InstanceRow.sop_instance_uid, InstanceRow.id, FindingRow.content_key)
            .join(FindingRow, FindingRow.instance_id == InstanceRow.id)
            .where(InstanceRow.sop_instance_uid.in_([a.instance.sop_instance_uid for a in analyses]))
        )
        for uid, id_, content_key in t.execute(query):
            contents.setdefault(uid, {})[id_] = content_key
        for analysis in analyses:
            instance = analysis.instance
            ended = {"state": analysis.state, "reason": analysis.failure}
            if not queue.finish(t, InstanceRow, instance.id, token, **ended):
                continue
            finished += 1
            if analysis.finding is None:
                kind = AuditKind.ANALYSIS_SKIPPED if analysis.skipped else AuditKind.ANALYSIS_FAILED
                scope: dict[str, Any] = {} if analysis.scope is None else {"scope": analysis.scope}
                t.audit(kind, *instance.uids, reason=analysis.failure, model=model.id, **scope)
            else:
                versions = contents.setdefault(instance.sop_instance_uid, {})
                _audit_difference(t, analysis, analysis.finding, versions)
                _keep_finding(t, analysis, analysis.finding, model)
    return finished


def _audit_difference(t: Transaction, analysis: Analysis, finding: Finding, versions: dict[int, str]) -> None:
    """Audit how an image that is analyzed for the first time differs from its newest other version."""
    instance = analysis.instance
    if instance.id in versions:
        return
    changed = list(analysis.changed)
    other = versions[max(versions)] if versions else None
    versions[instance.id] = finding.content_key
    if other == finding.content_key:
        t.audit(AuditKind.HEADER_CHANGED, *instance.uids, changed=changed)
    elif other is not None:
        keys = {"content_key": finding.content_key, "other_content_key": other}
        t.audit(AuditKind.CONTENT_CONFLICT, *instance.uids, **keys, changed=changed)


def _keep_finding(t: Transaction, analysis: Analysis, finding: Finding, model: ModelIdentity) -> None:
    instance = analysis.instance
    t.execute(
        sa.delete(FindingRow).where(FindingRow.instance_id == instance.id, FindingRow.model_key == model.key)
    )
    t.execute(
        sa.insert(FindingRow).values(
            instance_id=instance.id,
            model_id=model.id,
            model_key=model.key,
            content_key=finding.content_key,
            probability=finding.probability,
            positive=finding.positive,
            heat_map=finding.heat_map.to_bytes(),
            regions=json.dumps([[region.polygon, region.score] for region in finding.regions]),
            notes=json.dumps(finding.notes),
            station=finding.station,
            brightness=finding.brightness,
            created_at=t.now,
        )
    )
    t.audit(
        AuditKind.FINDING_COPIED if analysis.copied else AuditKind.ANALYZED,
        *instance.uids,
        model=model.id,
        model_version=model.version,
        model_sha256=model.sha256,
        threshold=model.threshold,
        probability=finding.probability,
        positive=finding.positive,
        content_key=finding.content_key,
        notes=list(finding.notes),
        finding=model.finding.meaning,
        phrase=model.phrase(finding.positive),
        **({} if finding.positive else {"caveat": model.negative_caveat}),
        **({} if analysis.scope is None else {"scope": analysis.scope}),
    )


def postpone_instances(
    database: Database, claim: Claim[Instance], seconds: float, why: str, *, counts: bool = True
) -> None:
    """Give images back after an inconclusive attempt, to be tried again later.

    If it `counts` as an attempt, each is then claimed alone.
    """
    with database.write() as t:
        for instance in claim.items:
            later = {"due_at": t.now + seconds, "reason": why, "attempts": instance.attempts - (not counts)}
            if queue.finish(t, InstanceRow, instance.id, claim.token, **later):
                t.audit(AuditKind.ANALYSIS_POSTPONED, *instance.uids, why=why)


def reopen_instances(database: Database, instances: Sequence[Instance], why: str) -> None:
    """Let analyzed images be analyzed again."""
    with database.write() as t:
        for instance in instances:
            t.execute(
                sa.update(InstanceRow)
                .where(InstanceRow.id == instance.id)
                .values(state=InstanceState.RECEIVED, reason=None, due_at=t.now, attempts=0)
            )
            t.audit(AuditKind.ANALYSIS_REOPENED, *instance.uids, why=why)


def list_instances(connection: sa.Connection, where: sa.ColumnElement[bool]) -> list[Instance]:
    """Registered objects, in the order of their arrival."""
    names = [field.name for field in fields(Instance) if field.name != "study_instance_uid"]
    query = (
        select_instances(StudyRow.study_instance_uid, *(getattr(InstanceRow, name) for name in names))
        .where(where)
        .order_by(InstanceRow.id)
    )
    rows = connection.execute(query).mappings()
    return [Instance(**{**row, "state": InstanceState(row["state"])}) for row in rows]


def uids_by_series(instances: Iterable[Instance]) -> dict[str, set[str]]:
    """SOP Instance UIDs by Series Instance UID."""
    uids: dict[str, set[str]] = {}
    for instance in instances:
        uids.setdefault(instance.series_instance_uid, set()).add(instance.sop_instance_uid)
    return uids


def received_uids(database: Database, study_instance_uid: str) -> dict[str, set[str]]:
    """SOP Instance UIDs by Series Instance UID, of everything received and kept of a study."""
    with database.read() as connection:
        return uids_by_series(list_instances(connection, StudyRow.study_instance_uid == study_instance_uid))


def ever_received_uids(database: Database, study_instance_uid: str) -> set[str]:
    """SOP Instance UIDs of everything ever received of a study, also of what was deleted since."""
    query = sa.select(AuditRow.sop_instance_uid).where(
        AuditRow.study_instance_uid == study_instance_uid, AuditRow.event == AuditKind.RECEIVED
    )
    with database.read() as connection:
        return {str(uid) for uid in connection.execute(query).scalars()}


def finding_of(row: Any) -> Finding:
    """The finding in a row with the columns of FindingRow."""
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
