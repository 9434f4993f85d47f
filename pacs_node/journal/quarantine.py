"""What does not get on by itself: shown to an administrator, who lets it be tried again or gives it up."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from pacs_node.journal.database import Database
from pacs_node.journal.deliveries import STALLED_ATTEMPTS
from pacs_node.journal.schema import DeliveryRow, FindingRow, InstanceRow, ResultRow, StudyRow
from pacs_node.records import AuditKind, DeliveryState, InstanceState, StudyState

_UNDELIVERED = (DeliveryState.PENDING, DeliveryState.QUARANTINED)


def counts(database: Database, destinations: Collection[str]) -> dict[str, int]:
    """How many deliveries need somebody, by what is the matter; see `rows`."""
    trouble = _trouble(destinations)
    query = (
        sa.select(trouble, sa.func.count())
        .where(DeliveryRow.state.in_(_UNDELIVERED), trouble.is_not(None))
        .group_by(trouble)
        .order_by(trouble)
    )
    with database.read() as connection:
        return {str(name): int(count) for name, count in connection.execute(query)}


def rows(database: Database, destinations: Collection[str]) -> list[dict[str, Any]]:
    """The deliveries, images and studies that need somebody, oldest first.

    `destinations` are those configured. A delivery is QUARANTINED (refused for good, or given up), has NO
    DESTINATION (no longer configured), or is STALLED: it is still tried, so far in vain. An image or a study
    is FAILED.
    """
    failed_studies = sa.select(
        sa.literal("FAILED").label("trouble"),
        StudyRow.study_instance_uid,
        StudyRow.reason,
        StudyRow.attempts,
        StudyRow.last_received_at.label("since_at"),
    ).where(StudyRow.state == StudyState.FAILED)
    failed_images = (
        sa.select(
            sa.literal("FAILED").label("trouble"),
            StudyRow.study_instance_uid,
            InstanceRow.sop_instance_uid,
            InstanceRow.reason,
            InstanceRow.attempts,
            InstanceRow.received_at.label("since_at"),
        )
        .join(StudyRow, StudyRow.id == InstanceRow.study_id)
        .where(InstanceRow.state == InstanceState.FAILED)
    )
    blank = dict.fromkeys(("id", "destination", "role", "sop_instance_uid", "last_status", "next_try_at"))
    with database.read() as connection:
        found = [
            {"what": what, **blank, **row}
            for what, query in (
                ("delivery", _listed(destinations)),
                ("image", failed_images),
                ("study", failed_studies),
            )
            for row in connection.execute(query).mappings()
        ]
    return sorted(found, key=lambda row: row["since_at"])


def retry(database: Database, destinations: Collection[str], which: str, who: str) -> int:
    """Let listed deliveries be tried at once: one by its number, a destination's by its name, or "all".

    Returns how many. What was attempted stays counted: a duplicate is then known for our own.
    """
    values = {"state": DeliveryState.PENDING}
    return _change(database, destinations, which, values, AuditKind.DELIVERY_RETRIED, {"who": who})


def discard(database: Database, destinations: Collection[str], which: str, who: str, reason: str) -> int:
    """Give listed deliveries up, chosen as for `retry`; returns how many."""
    values = {"state": DeliveryState.DISCARDED, "last_comment": f"discarded by {who}: {reason}"}
    return _change(
        database, destinations, which, values, AuditKind.DELIVERY_DISCARDED, {"who": who, "reason": reason}
    )


def retry_study(
    database: Database, study_instance_uid: str, who: str, new: bool = False, reanalyze: bool = False
) -> bool:
    """Let a study's failed images, its failed report and its undelivered results be tried again at once.

    With `new` it is reported again in new objects with new UIDs, as an amended report, whatever was said
    before; what was not delivered yet is given up. `reanalyze` is that, and the model runs again on every
    image, also of a body part that it did not know: what it said before stays in the audit log alone. False
    where no such study is known.
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
            # What the model skipped was claimed for that; what was skipped as it came in never is.
            asked = sa.and_(InstanceRow.state == InstanceState.SKIPPED, InstanceRow.attempts > 0)
            again = sa.or_(again, InstanceRow.state == InstanceState.ANALYZED, asked)
        images = t.execute(
            sa.update(InstanceRow)
            .where(InstanceRow.study_id == study.id, again)
            .values(state=InstanceState.RECEIVED, reason=None, attempts=0, **free)
        ).rowcount
        if reanalyze:
            # What is there would be taken over for other versions of its image.
            of_study = sa.select(InstanceRow.id).where(InstanceRow.study_id == study.id)
            t.execute(sa.delete(FindingRow).where(FindingRow.instance_id.in_(of_study)))
        # A study that is reported with a reason was answered with why it was not analyzed.
        said = study.state == StudyState.REPORTED and not study.reason
        if new or images or not (said or study.state == StudyState.SKIPPED):
            revision = study.revision + 1
            renewed = {"renewed_revision": revision} if new else {}
            t.execute(
                sa.update(StudyRow)
                .where(StudyRow.id == study.id)
                .values(state=StudyState.OPEN, reason=None, attempts=0, revision=revision, **renewed, **free)
            )
        ours = sa.select(ResultRow.id).where(ResultRow.study_id == study.id)
        given_up = {"state": DeliveryState.DISCARDED, "last_comment": f"retry --new by {who}"}
        deliveries = t.execute(
            sa.update(DeliveryRow)
            .where(DeliveryRow.result_id.in_(ours), DeliveryRow.state.in_(_UNDELIVERED))
            .values(**(given_up if new else {"state": DeliveryState.PENDING}), **free)
        ).rowcount
        event = AuditKind.REANALYZED if reanalyze else AuditKind.RETRIED
        t.audit(event, study_instance_uid, images=images, deliveries=deliveries, new=new, who=who)
        return True


def _trouble(destinations: Collection[str]) -> sa.Case[str | None]:
    return sa.case(
        (DeliveryRow.state == DeliveryState.QUARANTINED, "QUARANTINED"),
        (DeliveryRow.destination.not_in(destinations), "NO DESTINATION"),
        (DeliveryRow.attempts >= STALLED_ATTEMPTS, "STALLED"),
        else_=None,
    )


def _listed(destinations: Collection[str]) -> sa.Select[Any]:
    trouble = _trouble(destinations)
    quarantined = DeliveryRow.state == DeliveryState.QUARANTINED
    next_try = sa.case((trouble == "STALLED", DeliveryRow.due_at), else_=None)
    return (
        sa.select(
            DeliveryRow.id,
            trouble.label("trouble"),
            DeliveryRow.destination,
            ResultRow.role,
            StudyRow.study_instance_uid,
            ResultRow.sop_instance_uid,
            DeliveryRow.last_comment.label("reason"),
            DeliveryRow.attempts,
            DeliveryRow.last_status,
            next_try.label("next_try_at"),
            # What is quarantined was due last when it was.
            sa.case((quarantined, DeliveryRow.due_at), else_=ResultRow.created_at).label("since_at"),
        )
        .join(ResultRow, ResultRow.id == DeliveryRow.result_id)
        .join(StudyRow, StudyRow.id == ResultRow.study_id)
        .where(DeliveryRow.state.in_(_UNDELIVERED), trouble.is_not(None))
    )


def _change(
    database: Database,
    destinations: Collection[str],
    which: str,
    values: dict[str, Any],
    event: AuditKind,
    told: dict[str, Any],
) -> int:
    chosen = (
        sa.true()
        if which == "all"
        else DeliveryRow.id == int(which)
        if which.isdecimal()
        else DeliveryRow.destination == which
    )
    with database.write() as t:
        query = _listed(destinations).where(chosen).with_for_update(of=DeliveryRow)
        found = t.execute(query).all()
        if not found:
            return 0
        free = {"due_at": t.now, "lease_token": None, "lease_until": 0.0}
        t.execute(
            sa.update(DeliveryRow).where(DeliveryRow.id == sa.bindparam("this")).values(**values, **free),
            [{"this": row.id} for row in found],
        )
        for row in found:
            uids = (row.study_instance_uid, row.sop_instance_uid)
            about = {"destination": row.destination, "role": row.role, "attempts": row.attempts}
            t.audit(event, *uids, **about, **told)
        return len(found)
