"""The queue of studies to report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from pacs_node.journal import deliveries, queue
from pacs_node.journal.database import Database
from pacs_node.journal.instances import finding_of, list_instances
from pacs_node.journal.schema import (
    FindingRow,
    InstanceRow,
    ReportRow,
    ResultRow,
    StudyRow,
)
from pacs_node.journal.transaction import Transaction
from pacs_node.records import (
    AuditKind,
    Finding,
    Instance,
    InstanceState,
    ModelIdentity,
    Outcome,
    Predecessor,
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
    kept: tuple[str, ...] = ()
    """SOP Instance UIDs of Secondary Captures of an earlier report that are this one's too."""
    reason: str | None = None
    """Why no image was analyzed, where none was."""


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
    with database.write() as t:
        row = t.execute(queue.locked(query, StudyRow)).one_or_none()
        if row is None:
            return None
        # Asked again now that no image can come in: one may have, after that statement began.
        if not t.execute(sa.select(~waiting).where(StudyRow.id == row.id)).scalar_one():
            return None
        token = queue.lease(t, StudyRow, [row.id])
        study = Study(
            id=row.id,
            study_instance_uid=row.study_instance_uid,
            state=StudyState(row.state),
            reason=row.reason,
            revision=row.revision,
            attempts=row.attempts + 1,
            first_received_at=row.first_received_at,
            last_received_at=row.last_received_at,
            renewed=row.renewed_revision,
        )
        return queue.Claim(token, (study,))


def study_instances(database: Database, study_instance_uid: str) -> list[Instance]:
    """The study's objects, the newest version of each SOPInstanceUID; none where it is not known."""
    with database.read() as connection:
        newest = {
            instance.sop_instance_uid: instance
            for instance in list_instances(connection, StudyRow.study_instance_uid == study_instance_uid)
        }
    return list(newest.values())


def findings(database: Database, instances: Sequence[Instance], model: ModelIdentity) -> dict[int, Finding]:
    """What this model said of these images, by instance id."""
    query = sa.select(FindingRow.__table__).where(
        FindingRow.instance_id.in_([instance.id for instance in instances]), FindingRow.model_key == model.key
    )
    with database.read() as connection:
        return {row.instance_id: finding_of(row) for row in connection.execute(query)}


def last_report(database: Database, study: Study) -> tuple[str, Outcome, Predecessor] | None:
    """A study's newest report: its inputs key, what it says, and itself as the predecessor of a next one."""
    query = (
        sa.select(
            ResultRow.__table__,
            ReportRow.inputs_key,
            ReportRow.outcome,
            ReportRow.created_at.label("reported_at"),
        )
        .join(ReportRow, ReportRow.id == ResultRow.report_id)
        .where(ReportRow.study_id == study.id, ResultRow.role == "SR")
        .order_by(ReportRow.id.desc())
        .limit(1)
    )
    with database.read() as connection:
        row = connection.execute(query).one_or_none()
    if row is None:
        return None
    predecessor = Predecessor(
        series_instance_uid=row.series_instance_uid,
        sop_instance_uid=row.sop_instance_uid,
        sop_class_uid=row.sop_class_uid,
        created_at=row.reported_at,
    )
    return row.inputs_key, Outcome(row.outcome), predecessor


def failures_said(database: Database, reason: str, since: float) -> int:
    """How many reports of studies that failed for this reason were made since then."""
    query = (
        sa.select(sa.func.count())
        .select_from(ReportRow)
        .join(StudyRow, StudyRow.id == ReportRow.study_id)
        .where(ReportRow.created_at > since, ReportRow.outcome == Outcome.FAILED, StudyRow.reason == reason)
    )
    with database.read() as connection:
        return connection.execute(query).scalar_one()


def result_uids(database: Database, study: Study) -> set[str]:
    """SOP Instance UIDs of all results that a study has."""
    with database.read() as connection:
        query = sa.select(ResultRow.sop_instance_uid).where(ResultRow.study_id == study.id)
        return set(connection.execute(query).scalars())


def finish_report(
    database: Database, token: str, study: Study, report: Report, routes: Mapping[str, Sequence[str]]
) -> bool:
    """Commit a report with its results and their deliveries; False where it is stale and must be discarded.

    Stale: the lease was lost, or an image came in since the claim. A result that an earlier report committed
    already is kept as it is, and goes to those who have not got it. `routes` names the destinations of the
    results by their role.
    """
    with database.write() as t:
        if not _finish_study(t, study, token, StudyState.REPORTED, report.reason):
            return False
        report_id = t.execute(
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
        t.audit(
            AuditKind.REPORTED,
            study.study_instance_uid,
            revision=report.revision,
            outcome=report.outcome,
            summary=report.summary,
            model=report.model.id,
            model_sha256=report.model.sha256,
            results=[f"{result.role} {result.sop_instance_uid}" for result in report.results],
            destinations={role: list(names) for role, names in routes.items()},
            mismatches=list(report.mismatches),
        )
        for result in report.results:
            _add_result(t, study, report_id, result)
        uids = (*(result.sop_instance_uid for result in report.results), *report.kept)
        for role, names in routes.items():
            for name in names:
                deliveries.add(t, uids, role, name)
        return True


def _add_result(
    t: Transaction,
    study: Study,
    report_id: int,
    result: Result,
) -> None:
    known = sa.select(ResultRow.id).where(ResultRow.sop_instance_uid == result.sop_instance_uid)
    if t.execute(known).first() is not None:
        return
    t.execute(
        sa.insert(ResultRow).values(
            report_id=report_id,
            study_id=study.id,
            instance_id=result.source_instance_id,
            role=result.role,
            sop_instance_uid=result.sop_instance_uid,
            sop_class_uid=result.sop_class_uid,
            series_instance_uid=result.series_instance_uid,
            sha256=result.sha256,
            size=result.size,
            created_at=t.now,
        )
    )


def close_study(
    database: Database, token: str, study: Study, state: StudyState, reason: str | None, event: AuditKind
) -> bool:
    """End a study without a new report; False where an image came in since the claim."""
    with database.write() as t:
        if not _finish_study(t, study, token, state, reason):
            return False
        t.audit(event, study.study_instance_uid, reason=reason)
        return True


def postpone_study(
    database: Database, claim: queue.Claim[Study], seconds: float, why: str, *, counts: bool = True
) -> None:
    """Give a study back, to be reported later; `counts`: as an attempt."""
    (study,) = claim.items
    with database.write() as t:
        later = {"due_at": t.now + seconds, "reason": why, "attempts": study.attempts - (not counts)}
        if queue.finish(t, StudyRow, study.id, claim.token, **later):
            t.audit(AuditKind.REPORT_POSTPONED, study.study_instance_uid, why=why)


def _finish_study(t: Transaction, study: Study, token: str, state: StudyState, reason: str | None) -> bool:
    # Locked: an image that comes in from here on waits, and then opens the study again.
    revision = sa.select(StudyRow.revision).where(StudyRow.id == study.id).with_for_update()
    current = t.execute(revision).scalar_one()
    if current != study.revision:
        queue.finish(t, StudyRow, study.id, token)
        return False
    return queue.finish(t, StudyRow, study.id, token, state=state, reason=reason)


def release_study(database: Database, token: str, study: Study) -> None:
    """Give a study back as it is: it waits for its images."""
    with database.write() as t:
        queue.finish(t, StudyRow, study.id, token)
