"""The queue of studies to report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from pacs_node.journal import audit, queue
from pacs_node.journal.database import Database
from pacs_node.journal.instances import list_instances
from pacs_node.journal.schema import (
    DeliveryRow,
    FindingRow,
    InstanceRow,
    ReportRow,
    ResultRow,
    StudyRow,
)
from pacs_node.records import (
    DeliveryState,
    Finding,
    HeatMap,
    Instance,
    InstanceState,
    ModelIdentity,
    Outcome,
    Predecessor,
    Region,
    Result,
    Study,
    StudyState,
)


@dataclass(frozen=True, slots=True)
class Report:
    """A report that was made: what the journal keeps of it."""

    revision: int
    inputs_key: str
    model: ModelIdentity
    outcome: Outcome
    summary: str
    created_at: float
    results: tuple[Result, ...]
    mismatches: tuple[str, ...] = ()
    """Keywords of attributes in which the study's images differ."""


def claim_study(database: Database) -> queue.Claim[Study] | None:
    """A study whose quiet period is over and none of whose images is still to be analyzed."""
    waiting = sa.exists().where(
        InstanceRow.study_id == StudyRow.id, InstanceRow.state == InstanceState.RECEIVED
    )
    query = (
        sa.select(StudyRow.__table__)
        .where(queue.claimable(StudyRow, StudyState.OPEN, database.clock()), ~waiting)
        .order_by(StudyRow.due_at)
        .limit(1)
    )
    with database.read() as connection:
        if connection.execute(query).first() is None:
            return None
    with database.write() as connection:
        row = connection.execute(query).one_or_none()
        if row is None:
            return None
        token = queue.lease(connection, StudyRow, [row.id], database.clock())
        study = Study(
            id=row.id,
            study_instance_uid=row.study_instance_uid,
            state=StudyState(row.state),
            reason=row.reason,
            revision=row.revision,
            attempts=row.attempts + 1,
            first_received_at=row.first_received_at,
            last_received_at=row.last_received_at,
        )
        return queue.Claim(token, (study,))


def study_instances(database: Database, study: Study) -> list[Instance]:
    """The study's objects, the newest version of each SOPInstanceUID."""
    with database.read() as connection:
        newest = {
            instance.sop_instance_uid: instance
            for instance in list_instances(connection, InstanceRow.study_id == study.id)
        }
    return list(newest.values())


def findings(database: Database, instances: Sequence[Instance], model: ModelIdentity) -> dict[int, Finding]:
    """What this model said of these images, by instance id."""
    query = sa.select(FindingRow.__table__).where(
        FindingRow.instance_id.in_([instance.id for instance in instances]), FindingRow.model_key == model.key
    )
    with database.read() as connection:
        return {
            row.instance_id: Finding(
                content_key=row.content_key,
                probability=row.probability,
                positive=row.positive,
                heat_map=HeatMap.from_bytes(row.heat_map),
                regions=tuple(
                    Region(tuple((x, y) for x, y in polygon), score)
                    for polygon, score in json.loads(row.regions)
                ),
                notes=tuple(json.loads(row.notes)),
                station=row.station,
                brightness=row.brightness,
            )
            for row in connection.execute(query)
        }


def last_report(database: Database, study: Study) -> tuple[str, Predecessor] | None:
    """The inputs key of a study's newest report, and that report as the predecessor of a next one."""
    query = (
        sa.select(ResultRow.__table__, ReportRow.inputs_key, ReportRow.created_at.label("reported_at"))
        .join(ReportRow, ReportRow.id == ResultRow.report_id)
        .where(ReportRow.study_id == study.id, ResultRow.role == "SR")
        .order_by(ReportRow.id.desc())
        .limit(1)
    )
    with database.read() as connection:
        row = connection.execute(query).one_or_none()
    if row is None:
        return None
    return row.inputs_key, Predecessor(
        series_instance_uid=row.series_instance_uid,
        sop_instance_uid=row.sop_instance_uid,
        sop_class_uid=row.sop_class_uid,
        created_at=row.reported_at,
    )


def result_uids(database: Database, study: Study) -> set[str]:
    """SOP Instance UIDs of all results that a study has."""
    with database.read() as connection:
        query = sa.select(ResultRow.sop_instance_uid).where(ResultRow.study_id == study.id)
        return set(connection.execute(query).scalars())


def finish_report(
    database: Database, token: str, study: Study, report: Report, destinations: Sequence[str]
) -> bool:
    """Commit a report with its results and their deliveries; False where it is stale and must be discarded.

    Stale: the lease was lost, or an image came in since the claim. A result that an earlier report committed
    already is kept as it is.
    """
    with database.write() as connection:
        now = database.clock()
        if not _finish_study(connection, study, token, StudyState.REPORTED, None):
            return False
        report_id = connection.execute(
            sa.insert(ReportRow)
            .values(
                study_id=study.id,
                revision=report.revision,
                inputs_key=report.inputs_key,
                model_id=report.model.id,
                model_sha256=report.model.sha256,
                outcome=report.outcome,
                summary=report.summary,
                created_at=report.created_at,
            )
            .returning(ReportRow.id)
        ).scalar_one()
        audit.append(
            connection,
            now,
            "reported",
            study.study_instance_uid,
            revision=report.revision,
            outcome=report.outcome,
            summary=report.summary,
            model=report.model.id,
            model_sha256=report.model.sha256,
            results=[f"{result.role} {result.sop_instance_uid}" for result in report.results],
            destinations=list(destinations),
            mismatches=list(report.mismatches),
        )
        for result in report.results:
            _add_result(connection, study, report_id, result, destinations, now)
        return True


def _add_result(
    connection: sa.Connection,
    study: Study,
    report_id: int,
    result: Result,
    destinations: Sequence[str],
    now: float,
) -> None:
    known = sa.select(ResultRow.id).where(ResultRow.sop_instance_uid == result.sop_instance_uid)
    if connection.execute(known).first() is not None:
        return
    result_id = connection.execute(
        sa.insert(ResultRow)
        .values(
            report_id=report_id,
            study_id=study.id,
            instance_id=result.source_instance_id,
            role=result.role,
            sop_instance_uid=result.sop_instance_uid,
            sop_class_uid=result.sop_class_uid,
            series_instance_uid=result.series_instance_uid,
            sha256=result.sha256,
            size=result.size,
            created_at=now,
        )
        .returning(ResultRow.id)
    ).scalar_one()
    for destination in destinations:
        connection.execute(
            sa.insert(DeliveryRow).values(
                result_id=result_id, destination=destination, state=DeliveryState.PENDING, due_at=now
            )
        )


def close_study(
    database: Database, token: str, study: Study, state: StudyState, reason: str | None, event: str
) -> bool:
    """End a study without a new report; False where an image came in since the claim."""
    with database.write() as connection:
        if not _finish_study(connection, study, token, state, reason):
            return False
        audit.append(connection, database.clock(), event, study.study_instance_uid, reason=reason)
        return True


def postpone_study(database: Database, claim: queue.Claim[Study], seconds: float, why: str) -> None:
    """Give a study back, to be reported later."""
    (study,) = claim.items
    with database.write() as connection:
        now = database.clock()
        if queue.finish(connection, StudyRow, study.id, claim.token, due_at=now + seconds):
            audit.append(connection, now, "report_postponed", study.study_instance_uid, why=why)


def _finish_study(
    connection: sa.Connection, study: Study, token: str, state: StudyState, reason: str | None
) -> bool:
    current = connection.execute(sa.select(StudyRow.revision).where(StudyRow.id == study.id)).scalar_one()
    if current != study.revision:
        queue.finish(connection, StudyRow, study.id, token)
        return False
    return queue.finish(connection, StudyRow, study.id, token, state=state, reason=reason)


def release_study(database: Database, token: str, study: Study) -> None:
    """Give a study back as it is: it waits for its images."""
    with database.write() as connection:
        queue.finish(connection, StudyRow, study.id, token)


def retry(database: Database, study_instance_uid: str) -> bool:
    """Let a study's failed images, its failed report and its undelivered results be tried again at once.

    False where no such study is known.
    """
    with database.write() as connection:
        now = database.clock()
        study = connection.execute(
            sa.select(StudyRow.id, StudyRow.state).where(StudyRow.study_instance_uid == study_instance_uid)
        ).one_or_none()
        if study is None:
            return False
        again = {"due_at": now, "attempts": 0, "lease_token": None, "lease_until": 0.0}
        images = connection.execute(
            sa.update(InstanceRow)
            .where(InstanceRow.study_id == study.id, InstanceRow.state == InstanceState.FAILED)
            .values(state=InstanceState.RECEIVED, reason=None, **again)
        ).rowcount
        if images or study.state in (StudyState.OPEN, StudyState.FAILED):
            connection.execute(
                sa.update(StudyRow)
                .where(StudyRow.id == study.id)
                .values(state=StudyState.OPEN, reason=None, revision=StudyRow.revision + 1, **again)
            )
        ours = sa.select(ResultRow.id).where(ResultRow.study_id == study.id)
        deliveries = connection.execute(
            sa.update(DeliveryRow)
            .where(DeliveryRow.result_id.in_(ours), DeliveryRow.state != DeliveryState.SENT)
            .values(state=DeliveryState.PENDING, **again)
        ).rowcount
        audit.append(connection, now, "retried", study_instance_uid, images=images, deliveries=deliveries)
        return True
