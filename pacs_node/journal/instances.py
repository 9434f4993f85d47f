"""The queue of images to analyze."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields

import sqlalchemy as sa

from pacs_node.journal import audit, queue
from pacs_node.journal.database import Database
from pacs_node.journal.schema import (
    FindingRow,
    InstanceRow,
    StudyRow,
)
from pacs_node.records import (
    Analysis,
    Finding,
    Instance,
    InstanceState,
    ModelIdentity,
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
    with database.write() as connection:
        due = connection.execute(query).all()
        if not due:
            return None
        ids = [row.id for row in due if row.attempts == 0] or [due[0].id]
        token = queue.lease(connection, InstanceRow, ids, database.clock())
        return queue.Claim(token, tuple(list_instances(connection, InstanceRow.id.in_(ids))))


def finish_instances(
    database: Database, token: str, model: ModelIdentity, analyses: Sequence[Analysis]
) -> int:
    """Record what came of images, in one transaction; returns for how many of them the lease still held."""
    finished = 0
    with database.write() as connection:
        now = database.clock()
        for analysis in analyses:
            state = InstanceState.ANALYZED if analysis.finding else InstanceState.FAILED
            instance = analysis.instance
            if not queue.finish(
                connection, InstanceRow, instance.id, token, state=state, reason=analysis.failure
            ):
                continue
            finished += 1
            uids = (instance.study_instance_uid, instance.sop_instance_uid)
            if analysis.finding is None:
                audit.append(
                    connection, now, "analysis_failed", *uids, reason=analysis.failure, model=model.id
                )
            else:
                _keep_finding(connection, now, instance, model, analysis.finding)
    return finished


def _keep_finding(
    connection: sa.Connection, now: float, instance: Instance, model: ModelIdentity, finding: Finding
) -> None:
    connection.execute(
        sa.delete(FindingRow).where(FindingRow.instance_id == instance.id, FindingRow.model_key == model.key)
    )
    connection.execute(
        sa.insert(FindingRow).values(
            instance_id=instance.id,
            model_key=model.key,
            content_key=finding.content_key,
            probability=finding.probability,
            positive=finding.positive,
            heat_map=finding.heat_map.to_bytes(),
            regions=json.dumps([[region.polygon, region.score] for region in finding.regions]),
            notes=json.dumps(finding.notes),
            created_at=now,
            model_id=model.id,
            station=finding.station,
            brightness=finding.brightness,
        )
    )
    audit.append(
        connection,
        now,
        "analyzed",
        instance.study_instance_uid,
        instance.sop_instance_uid,
        model=model.id,
        model_sha256=model.sha256,
        threshold=model.threshold,
        probability=finding.probability,
        positive=finding.positive,
        content_key=finding.content_key,
        notes=list(finding.notes),
    )


def postpone_instances(database: Database, claim: queue.Claim[Instance], seconds: float, why: str) -> None:
    """Give images back after an attempt that told nothing about them, to be tried again later, alone."""
    with database.write() as connection:
        now = database.clock()
        for instance in claim.items:
            if queue.finish(connection, InstanceRow, instance.id, claim.token, due_at=now + seconds):
                audit.append(
                    connection,
                    now,
                    "analysis_postponed",
                    instance.study_instance_uid,
                    instance.sop_instance_uid,
                    why=why,
                )


def reopen_instances(database: Database, instances: Sequence[Instance], why: str) -> None:
    """Let analyzed images be analyzed again."""
    with database.write() as connection:
        now = database.clock()
        for instance in instances:
            connection.execute(
                sa.update(InstanceRow)
                .where(InstanceRow.id == instance.id)
                .values(state=InstanceState.RECEIVED, due_at=now, attempts=0)
            )
            audit.append(
                connection,
                now,
                "analysis_reopened",
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
