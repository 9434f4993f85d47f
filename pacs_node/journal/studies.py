"""Studies: the queue of those to report, their reports, and the number of images that their PACS has."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import sqlalchemy as sa

from pacs_node.journal import deliveries, queue
from pacs_node.journal.database import Database
from pacs_node.journal.instances import finding_of, list_instances, uids_by_series
from pacs_node.journal.queue import Claim
from pacs_node.journal.schema import DeliveryRow, FindingRow, InstanceRow, ReportRow, ResultRow, StudyRow
from pacs_node.journal.transaction import Transaction
from pacs_node.records import (
    AuditKind,
    DeliveryState,
    Finding,
    Instance,
    InstanceState,
    ModelIdentity,
    Outcome,
    Predecessor,
    Result,
    ResultRole,
    Study,
    StudyState,
)

_WAITS_FOR_IMAGES = sa.exists().where(
    InstanceRow.study_id == StudyRow.id, InstanceRow.state == InstanceState.RECEIVED
)


@dataclass(frozen=True, slots=True)
class StudyReport:
    """What the journal keeps of a report."""

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
    """SOP Instance UIDs of Secondary Captures of an earlier report that belong to this one too."""
    reason: str | None = None
    """Why no image was analyzed, if none was."""


def claim_study(database: Database) -> Claim[Study] | None:
    """A study whose quiet period is over and none of whose images is still to be analyzed."""
    due = (
        sa.select(StudyRow.id)
        .where(queue.claimable(StudyRow, StudyState.OPEN, database.clock()), ~_WAITS_FOR_IMAGES)
        .order_by(StudyRow.due_at)
        .limit(1)
    )

    def pick(t: Transaction) -> list[int]:
        ids = list(t.execute(queue.locked(due, StudyRow)).scalars())
        # Asked again now that no image can come in: one may have, after that statement began.
        ready = sa.select(StudyRow.id).where(StudyRow.id.in_(ids), ~_WAITS_FOR_IMAGES)
        return list(t.execute(ready).scalars()) if ids else []

    def load(t: Transaction, ids: Sequence[int]) -> list[Study]:
        names = [field.name for field in fields(Study) if field.name != "renewed"]
        columns = [getattr(StudyRow, name) for name in names]
        query = sa.select(*columns, StudyRow.renewed_revision.label("renewed"))
        rows = t.execute(query.where(StudyRow.id.in_(ids))).mappings()
        return [Study(**{**row, "state": StudyState(row["state"])}) for row in rows]

    return queue.claim(database, StudyRow, due, pick, load)


def study_instances(database: Database, study_instance_uid: str) -> list[Instance]:
    """The study's objects, the newest version of each SOPInstanceUID; empty for an unknown study."""
    with database.read() as connection:
        every = list_instances(connection, StudyRow.study_instance_uid == study_instance_uid)
    return list({instance.sop_instance_uid: instance for instance in every}.values())


def findings(database: Database, instances: Sequence[Instance], model: ModelIdentity) -> dict[int, Finding]:
    """This model's findings in these images, by instance id."""
    query = sa.select(FindingRow.__table__).where(
        FindingRow.instance_id.in_([instance.id for instance in instances]), FindingRow.model_key == model.key
    )
    with database.read() as connection:
        return {row.instance_id: finding_of(row) for row in connection.execute(query)}


def last_report(database: Database, study: Study) -> tuple[str, Outcome, Predecessor] | None:
    """A study's newest report: its inputs key, its outcome, and itself as the predecessor of the next one."""
    query = (
        sa.select(
            ReportRow.inputs_key,
            ReportRow.outcome,
            ReportRow.created_at,
            ResultRow.series_instance_uid,
            ResultRow.sop_instance_uid,
            ResultRow.sop_class_uid,
        )
        .join(ResultRow, ResultRow.report_id == ReportRow.id)
        .where(ReportRow.study_id == study.id, ResultRow.role == ResultRole.SR)
        .order_by(ReportRow.id.desc())
        .limit(1)
    )
    with database.read() as connection:
        row = connection.execute(query).one_or_none()
    if row is None:
        return None
    uids = (row.series_instance_uid, row.sop_instance_uid, row.sop_class_uid)
    return row.inputs_key, Outcome(row.outcome), Predecessor(*uids, created_at=row.created_at)


def count_failure_reports(database: Database, reason: str, since: float) -> int:
    """The number of reports since then of studies that failed for this reason."""
    query = (
        sa.select(sa.func.count())
        .select_from(ReportRow)
        .join(StudyRow, StudyRow.id == ReportRow.study_id)
        .where(ReportRow.created_at > since, ReportRow.outcome == Outcome.FAILED, StudyRow.reason == reason)
    )
    with database.read() as connection:
        return connection.execute(query).scalar_one()


def result_uids(database: Database, study: Study) -> set[str]:
    """SOP Instance UIDs of all results of a study."""
    query = sa.select(ResultRow.sop_instance_uid).where(ResultRow.study_id == study.id)
    with database.read() as connection:
        return set(connection.execute(query).scalars())


def finish_report(
    database: Database, token: str, study: Study, report: StudyReport, routes: Mapping[str, Sequence[str]]
) -> bool:
    """Commit a report with its results and their deliveries; False if it is stale and must be discarded.

    Stale: the lease was lost, or an image came in since the claim. A result that an earlier report committed
    is kept as it is, and goes to the destinations that have not got it. `routes` names the destinations of
    the results by their role.
    """
    with database.write() as t:
        if not _finish(t, token, study, StudyState.REPORTED, report.reason):
            return False
        new_report = sa.insert(ReportRow).values(
            study_id=study.id,
            revision=report.revision,
            inputs_key=report.inputs_key,
            model_id=report.model.id,
            model_sha256=report.model.sha256,
            outcome=report.outcome,
            summary=report.summary,
            created_at=report.created_at,
        )
        report_id = t.execute(new_report.returning(ReportRow.id)).scalar_one()
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
        uids = [result.sop_instance_uid for result in report.results]
        query = sa.select(ResultRow.sop_instance_uid).where(ResultRow.sop_instance_uid.in_(uids))
        known = set(t.execute(query).scalars())
        rows = [
            {"report_id": report_id, "study_id": study.id, "created_at": t.now, **asdict(result)}
            for result in report.results
            if result.sop_instance_uid not in known
        ]
        for row in rows:
            row["instance_id"] = row.pop("source_instance_id")
        if rows:
            t.execute(sa.insert(ResultRow), rows)
        for role, names in routes.items():
            for name in names:
                deliveries.add(t, [*uids, *report.kept], role, name)
        return True


def close_study(
    database: Database, token: str, study: Study, state: StudyState, reason: str | None, kind: AuditKind
) -> bool:
    """End a study without a new report; False if an image came in since the claim."""
    with database.write() as t:
        finished = _finish(t, token, study, state, reason)
        if finished:
            t.audit(kind, study.study_instance_uid, reason=reason)
        return finished


def _finish(t: Transaction, token: str, study: Study, state: StudyState, reason: str | None) -> bool:
    # Locked: an image that comes in from here on waits, and then opens the study again.
    revision = sa.select(StudyRow.revision).where(StudyRow.id == study.id).with_for_update()
    if t.execute(revision).scalar_one() != study.revision:
        queue.finish(t, StudyRow, study.id, token)
        return False
    return queue.finish(t, StudyRow, study.id, token, state=state, reason=reason)


def postpone_study(
    database: Database, claim: Claim[Study], seconds: float, why: str, *, counts: bool = True
) -> None:
    """Give a study back, to be reported later; `counts` says whether that was an attempt."""
    (study,) = claim.items
    with database.write() as t:
        later = {"due_at": t.now + seconds, "reason": why, "attempts": study.attempts - (not counts)}
        if queue.finish(t, StudyRow, study.id, claim.token, **later):
            t.audit(AuditKind.REPORT_POSTPONED, study.study_instance_uid, why=why)


def release_study(database: Database, token: str, study: Study) -> None:
    """Give a study back as it is: it waits for its images."""
    with database.write() as t:
        queue.finish(t, StudyRow, study.id, token)


def retry_study(
    database: Database, study_instance_uid: str, who: str, new: bool = False, reanalyze: bool = False
) -> bool:
    """Retry a study's failed images, its failed report and its undelivered results at once.

    With `new` it is reported again in new objects with new UIDs, as an amended report, whatever was reported
    before; results not delivered yet are given up. `reanalyze` does the same and runs the model again on
    every image, also of a body part that it does not know: its earlier findings stay in the audit log alone.
    False for an unknown study.
    """
    new = new or reanalyze
    with database.write() as t:
        study = t.execute(
            sa.select(StudyRow.id, StudyRow.state, StudyRow.reason, StudyRow.revision)
            .where(StudyRow.study_instance_uid == study_instance_uid)
            .with_for_update()
        ).one_or_none()
        if study is None:
            return False
        free = {"due_at": t.now, "lease_token": None, "lease_until": 0.0}
        again = InstanceRow.state == InstanceState.FAILED
        if reanalyze:
            # Images skipped by the model were claimed for that; those skipped on arrival never are.
            by_model = sa.and_(InstanceRow.state == InstanceState.SKIPPED, InstanceRow.attempts > 0)
            again = sa.or_(again, InstanceRow.state == InstanceState.ANALYZED, by_model)
            # Findings left here would be copied to other versions of their image.
            of_study = sa.select(InstanceRow.id).where(InstanceRow.study_id == study.id)
            t.execute(sa.delete(FindingRow).where(FindingRow.instance_id.in_(of_study)))
        images = t.execute(
            sa.update(InstanceRow)
            .where(InstanceRow.study_id == study.id, again)
            .values(state=InstanceState.RECEIVED, reason=None, attempts=0, **free)
        ).rowcount
        # A reported study with a reason was answered with why it was not analyzed.
        answered = study.state == StudyState.REPORTED and not study.reason
        if new or images or not (answered or study.state == StudyState.SKIPPED):
            revision = study.revision + 1
            renewed = {"renewed_revision": revision} if new else {}
            t.execute(
                sa.update(StudyRow)
                .where(StudyRow.id == study.id)
                .values(state=StudyState.OPEN, reason=None, attempts=0, revision=revision, **renewed, **free)
            )
        given_up = {"state": DeliveryState.DISCARDED, "last_comment": f"retry --new by {who}"}
        undelivered = t.execute(
            sa.update(DeliveryRow)
            .where(
                DeliveryRow.result_id.in_(sa.select(ResultRow.id).where(ResultRow.study_id == study.id)),
                DeliveryRow.state.in_(deliveries.UNDELIVERED),
            )
            .values(**(given_up if new else {"state": DeliveryState.PENDING}), **free)
        ).rowcount
        kind = AuditKind.REANALYZED if reanalyze else AuditKind.RETRIED
        t.audit(kind, study_instance_uid, images=images, deliveries=undelivered, new=new, who=who)
        return True


@dataclass(frozen=True, slots=True)
class QuietStudy:
    """A study in its quiet period, with the objects received so far."""

    id: int
    study_instance_uid: str
    revision: int
    received: Mapping[str, set[str]]
    """SOP Instance UIDs by Series Instance UID."""
    images: int
    """The number of these with an accepted modality."""
    senders: frozenset[str]
    """Calling AE titles of the images, or of all objects if there is no image."""


def next_to_count(database: Database, quiet_seconds: float, modalities: Sequence[str]) -> QuietStudy | None:
    """A study to ask its PACS about: quiet for a quarter of the period, nothing of it left to analyze.

    Each revision is counted once.
    """
    now = database.clock()
    query = (
        sa.select(StudyRow.id, StudyRow.study_instance_uid, StudyRow.revision)
        .where(
            StudyRow.state == StudyState.OPEN,
            StudyRow.due_at > now,
            StudyRow.last_received_at <= now - quiet_seconds / 4,
            StudyRow.counted_revision.is_distinct_from(StudyRow.revision),
            ~_WAITS_FOR_IMAGES,
        )
        .order_by(StudyRow.due_at)
        .limit(1)
    )
    with database.read() as connection:
        study = connection.execute(query).one_or_none()
        if study is None:
            return None
        objects = list_instances(connection, InstanceRow.study_id == study.id)
    images = {item.sop_instance_uid for item in objects if item.modality in modalities}
    relevant = [item for item in objects if item.state != InstanceState.SKIPPED] or objects
    senders = frozenset(item.calling_ae_title for item in relevant)
    return QuietStudy(*study, uids_by_series(objects), len(images), senders)


def record_count(
    database: Database,
    study: QuietStudy,
    quiet_seconds: float,
    destination: str,
    expected: int,
    missing: Sequence[str],
) -> bool:
    """Keep a destination's count; if every image is here, a quarter of the quiet period is enough.

    False if an image came in since, or another process was faster.
    """
    # A PACS with fewer images than the node is still receiving, or is not where the images come from.
    complete = not missing and expected >= study.images > 0
    values: dict[str, Any] = {"expected": expected, "missing": json.dumps(list(missing))}
    if complete:
        enough = StudyRow.last_received_at + quiet_seconds / 4
        values["due_at"] = sa.case((StudyRow.due_at > enough, enough), else_=StudyRow.due_at)
    return _record_count(
        database,
        study,
        values,
        AuditKind.STUDY_COUNTED,
        destination=destination,
        expected=expected,
        received=study.images,
        missing=list(missing),
        complete=complete,
    )


def record_count_failure(database: Database, study: QuietStudy, why: str) -> bool:
    """Keep that no PACS could be asked; the quiet period runs on."""
    return _record_count(database, study, {}, AuditKind.STUDY_NOT_COUNTED, why=why)


def _record_count(
    database: Database, study: QuietStudy, values: dict[str, Any], kind: AuditKind, **details: Any
) -> bool:
    uncounted = sa.and_(
        StudyRow.id == study.id,
        StudyRow.state == StudyState.OPEN,
        StudyRow.revision == study.revision,
        StudyRow.counted_revision.is_distinct_from(study.revision),
    )
    with database.write() as t:
        update = sa.update(StudyRow).where(uncounted).values(counted_revision=study.revision, **values)
        counted = t.execute(update).rowcount == 1
        if counted:
            t.audit(kind, study.study_instance_uid, revision=study.revision, **details)
        return counted


def missing_images(connection: sa.Connection, study_id: int) -> list[str]:
    """SOP Instance UIDs that the PACS has, according to its last count, and that have still not come."""
    counted = connection.execute(sa.select(StudyRow.missing).where(StudyRow.id == study_id)).scalar_one()
    uids: list[str] = json.loads(counted)
    if uids:
        query = sa.select(InstanceRow.sop_instance_uid).where(InstanceRow.study_id == study_id)
        received = set(connection.execute(query).scalars())
        uids = [uid for uid in uids if uid not in received]
    return uids


def count_missing_images(database: Database, study_id: int) -> int:
    """The number of images that the PACS has, according to its last count, and that have still not come."""
    with database.read() as connection:
        return len(missing_images(connection, study_id))


def studies_received(database: Database, since: float, until: float) -> list[str]:
    """Study Instance UIDs of the studies received in a period, oldest first."""
    query = (
        sa.select(StudyRow.study_instance_uid)
        .where(StudyRow.last_received_at >= since, StudyRow.first_received_at < until)
        .order_by(StudyRow.id)
    )
    with database.read() as connection:
        return list(connection.execute(query).scalars())
