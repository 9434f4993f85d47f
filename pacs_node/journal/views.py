"""Read-only views of the journal for people and metrics: plain data, ready for a table, a page or JSON."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa

from pacs_node.journal import deliveries
from pacs_node.journal.database import Database
from pacs_node.journal.deliveries import Trouble, select_stuck
from pacs_node.journal.instances import finding_of
from pacs_node.journal.queue import MAX_ATTEMPTS
from pacs_node.journal.schema import (
    AuditRow,
    DeliveryRow,
    FindingRow,
    InstanceRow,
    ReportRow,
    ResultRow,
    StudyRow,
    select_instances,
)
from pacs_node.journal.studies import missing_images
from pacs_node.records import (
    AuditKind,
    DeliveryState,
    Finding,
    Instance,
    InstanceState,
    ResultRole,
    StudyState,
    VisibleState,
)

MOST_COUNTED = 1000
"""The worklist counts no further than this."""


def visible_state() -> sa.Case[Any]:
    """The state of a study as people see it, a VisibleState, as SQL."""

    def has(condition: sa.ColumnElement[bool]) -> sa.Exists:
        of_study = sa.select(DeliveryRow.id).join(ResultRow, ResultRow.id == DeliveryRow.result_id)
        return of_study.where(ResultRow.study_id == StudyRow.id, condition).correlate(StudyRow).exists()

    # A sent result whose commitment is awaited is still on its way.
    on_its_way = sa.or_(
        DeliveryRow.state == DeliveryState.PENDING,
        sa.and_(DeliveryRow.state == DeliveryState.SENT, DeliveryRow.transaction_uid.is_not(None)),
    )
    return sa.case(
        (StudyRow.state != StudyState.REPORTED, StudyRow.state),
        (has(DeliveryRow.state == DeliveryState.QUARANTINED), VisibleState.QUARANTINED),
        (has(on_its_way), VisibleState.READY),
        (has(DeliveryRow.state != DeliveryState.DISCARDED), VisibleState.DELIVERED),
        else_=VisibleState.REPORTED,
    )


def select_studies(*columns: Any) -> sa.Select[Any]:
    """Columns of studies and of the newest report of each."""
    newest = sa.select(sa.func.max(ReportRow.id)).where(ReportRow.study_id == StudyRow.id)
    return (
        sa.select(*columns)
        .select_from(StudyRow)
        .outerjoin(ReportRow, ReportRow.id == newest.correlate(StudyRow).scalar_subquery())
    )


def studies(database: Database, limit: int) -> list[dict[str, Any]]:
    """The studies with the latest arrivals, newest first, each with its newest report's summary."""
    objects = sa.select(sa.func.count()).where(InstanceRow.study_id == StudyRow.id).correlate(StudyRow)
    query = (
        select_studies(
            StudyRow.study_instance_uid,
            visible_state().label("state"),
            StudyRow.reason,
            StudyRow.first_received_at,
            StudyRow.last_received_at,
            objects.scalar_subquery().label("objects"),
            ReportRow.outcome,
            ReportRow.summary,
            ReportRow.created_at.label("reported_at"),
        )
        .order_by(StudyRow.last_received_at.desc())
        .limit(limit)
    )
    with database.read() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def study(database: Database, study_instance_uid: str) -> dict[str, Any] | None:
    """Everything about one study: images, findings, reports, results and deliveries; None if unknown."""
    query = sa.select(
        StudyRow.id,
        StudyRow.study_instance_uid,
        visible_state().label("state"),
        StudyRow.reason,
        StudyRow.revision,
        StudyRow.expected,
        StudyRow.first_received_at,
        StudyRow.last_received_at,
    ).where(StudyRow.study_instance_uid == study_instance_uid)
    instances = sa.select(
        InstanceRow.sop_instance_uid,
        InstanceRow.series_instance_uid,
        InstanceRow.modality,
        InstanceRow.state,
        InstanceRow.reason,
        InstanceRow.received_at,
        InstanceRow.calling_ae_title,
        InstanceRow.address,
        InstanceRow.sha256,
        FindingRow.probability,
        FindingRow.positive,
        FindingRow.created_at.label("analyzed_at"),
    ).outerjoin(FindingRow, FindingRow.instance_id == InstanceRow.id)
    reports = sa.select(
        ReportRow.revision,
        ReportRow.outcome,
        ReportRow.summary,
        ReportRow.model_id,
        ReportRow.created_at,
        ResultRow.sha256.label("sr_sha256"),
    ).outerjoin(ResultRow, sa.and_(ResultRow.report_id == ReportRow.id, ResultRow.role == ResultRole.SR))
    next_try = sa.case((DeliveryRow.state == DeliveryState.PENDING, DeliveryRow.due_at), else_=None)
    results = sa.select(
        ResultRow.role,
        ResultRow.sop_instance_uid,
        ResultRow.series_instance_uid,
        ResultRow.sha256,
        ResultRow.size,
        DeliveryRow.destination,
        DeliveryRow.state,
        DeliveryRow.attempts,
        next_try.label("next_try_at"),
        DeliveryRow.last_status,
        DeliveryRow.last_comment,
        DeliveryRow.sent_at,
        DeliveryRow.committed_at,
    ).outerjoin(DeliveryRow, DeliveryRow.result_id == ResultRow.id)
    parts: dict[str, tuple[sa.Select[*tuple[Any, ...]], Any]] = {
        "instances": (instances, InstanceRow),
        "reports": (reports, ReportRow),
        "results": (results, ResultRow),
    }
    with database.read() as connection:
        row = connection.execute(query).mappings().one_or_none()
        if row is None:
            return None
        view = dict(row)
        study_id = view.pop("id")
        view["missing"] = missing_images(connection, study_id)
        for name, (part, table) in parts.items():
            of_study = part.where(table.study_id == study_id).order_by(table.id)
            view[name] = [dict(item) for item in connection.execute(of_study).mappings()]
        return view


def counts(database: Database) -> dict[str, dict[str, int]]:
    """The number of instances, studies and deliveries in each state."""
    tables: dict[str, Any] = {"instances": InstanceRow, "studies": StudyRow, "deliveries": DeliveryRow}
    with database.read() as connection:
        return {name: _states(connection, row) for name, row in tables.items()}


def _states(connection: sa.Connection, row: Any) -> dict[str, int]:
    query = sa.select(row.state, sa.func.count()).group_by(row.state).order_by(row.state)
    return dict(iter(connection.execute(query)))


class Queues(NamedTuple):
    """The number of rows in each state, and since when the oldest has been waiting."""

    instances: dict[str, int]
    studies: dict[str, int]
    deliveries: dict[tuple[str, str], int]
    """By destination and state."""
    due: dict[str, float]
    """Of "instances" and "studies" that wait for a worker: since when the oldest is due."""
    outbox: dict[str, float]
    """By destination: when the oldest undelivered result was made."""


def queues(database: Database) -> Queues:
    """The queues as they are now."""
    by = (DeliveryRow.destination, DeliveryRow.state)
    # The one with the lowest number is the oldest: found without looking at every result that waits.
    oldest = (
        sa.select(sa.func.min(DeliveryRow.id))
        .where(DeliveryRow.state == DeliveryState.PENDING)
        .group_by(DeliveryRow.destination)
    )
    outbox = (
        sa.select(DeliveryRow.destination, ResultRow.created_at)
        .join(ResultRow, ResultRow.id == DeliveryRow.result_id)
        .where(DeliveryRow.id.in_(oldest))
    )
    waiting: dict[str, tuple[Any, str]] = {
        "instances": (InstanceRow, InstanceState.RECEIVED),
        "studies": (StudyRow, StudyState.OPEN),
    }
    with database.read() as connection:
        now = database.clock()
        due = {
            name: connection.scalar(
                sa.select(sa.func.min(row.due_at)).where(row.state == state, row.due_at <= now)
            )
            for name, (row, state) in waiting.items()
        }
        grouped = connection.execute(sa.select(*by, sa.func.count()).group_by(*by))
        return Queues(
            instances=_states(connection, InstanceRow),
            studies=_states(connection, StudyRow),
            deliveries={(destination, state): count for destination, state, count in grouped},
            due={name: at for name, at in due.items() if at is not None},
            outbox=dict(iter(connection.execute(outbox))),
        )


class StuckGroup(NamedTuple):
    """The deliveries to one destination that need attention for the same reason."""

    trouble: Trouble
    destination: str
    results: int
    since: float
    """The newest of them."""


def stuck_groups(database: Database, destinations: Collection[str]) -> list[StuckGroup]:
    """The deliveries that need attention, by trouble and destination."""
    trouble = deliveries.trouble(destinations)
    by = (trouble, DeliveryRow.destination)
    query = select_stuck(destinations, *by, sa.func.count(), sa.func.max(_stuck_since()))
    with database.read() as connection:
        rows = connection.execute(query.group_by(*by).order_by(*by))
        return [StuckGroup(Trouble(name), *row) for name, *row in rows]


def _stuck_since() -> sa.Case[Any]:
    # A quarantined delivery was last due when it was quarantined.
    quarantined = DeliveryRow.state == DeliveryState.QUARANTINED
    return sa.case((quarantined, DeliveryRow.due_at), else_=ResultRow.created_at)


def stuck(database: Database, destinations: Collection[str], answered: bool = False) -> list[dict[str, Any]]:
    """Stuck deliveries, and failed images and studies without an answer, newest first.

    With `answered`, also the failed images that a report names as not analyzed.
    """
    trouble = deliveries.trouble(destinations)
    queries = {
        "delivery": select_stuck(
            destinations,
            DeliveryRow.id,
            trouble.label("trouble"),
            DeliveryRow.destination,
            ResultRow.role,
            StudyRow.study_instance_uid,
            ResultRow.sop_instance_uid,
            DeliveryRow.last_comment.label("reason"),
            DeliveryRow.attempts,
            DeliveryRow.last_status,
            sa.case((trouble == Trouble.STALLED, DeliveryRow.due_at), else_=None).label("next_try_at"),
            _stuck_since().label("since_at"),
        ),
        "image": select_instances(
            sa.literal(Trouble.FAILED).label("trouble"),
            StudyRow.study_instance_uid,
            InstanceRow.sop_instance_uid,
            InstanceRow.reason,
            InstanceRow.attempts,
            InstanceRow.received_at.label("since_at"),
        ).where(InstanceRow.state == InstanceState.FAILED if answered else _unanswered()),
        "study": sa.select(
            sa.literal(Trouble.FAILED).label("trouble"),
            StudyRow.study_instance_uid,
            StudyRow.reason,
            StudyRow.attempts,
            StudyRow.last_received_at.label("since_at"),
        ).where(StudyRow.state == StudyState.FAILED),
    }
    blank = dict.fromkeys(("id", "destination", "role", "sop_instance_uid", "last_status", "next_try_at"))
    with database.read() as connection:
        rows = [
            {"what": what, **blank, **row}
            for what, query in queries.items()
            for row in connection.execute(query).mappings()
        ]
    return sorted(rows, key=lambda row: row["since_at"], reverse=True)


def _unanswered() -> sa.ColumnElement[bool]:
    """An image failed, and its study has no report; or the node gave the image up.

    Any other failed image is named by a report as not analyzed, with the reason.
    """
    return sa.and_(
        InstanceRow.state == InstanceState.FAILED,
        sa.or_(StudyRow.state == StudyState.FAILED, InstanceRow.attempts > MAX_ATTEMPTS),
    )


class FailedStudy(NamedTuple):
    """A study without an answer, or with images that the node gave up."""

    study_instance_uid: str
    state: StudyState
    reason: str | None
    """Why the study, or else an image, failed."""
    images: int
    """The number of its images that are stuck; see `stuck`."""
    since: float


def failed_studies(database: Database, limit: int) -> list[FailedStudy]:
    """The failed studies with the latest arrivals, newest first."""
    images = (
        select_instances(
            StudyRow.id, sa.func.count().label("count"), sa.func.max(InstanceRow.reason).label("reason")
        )
        .where(_unanswered())
        .group_by(StudyRow.id)
        .subquery()
    )
    kinds = (AuditKind.STUDY_FAILED, AuditKind.REPORT_FAILED, AuditKind.FAILURE_REPORT_SUPPRESSED)
    failed_at = sa.select(sa.func.max(AuditRow.at)).where(
        AuditRow.study_instance_uid == StudyRow.study_instance_uid,
        AuditRow.event.in_((*kinds, AuditKind.ANALYSIS_FAILED)),
    )
    query = (
        sa.select(
            StudyRow.study_instance_uid,
            StudyRow.state,
            sa.func.coalesce(StudyRow.reason, images.c.reason),
            sa.func.coalesce(images.c.count, 0),
            sa.func.coalesce(failed_at.correlate(StudyRow).scalar_subquery(), StudyRow.last_received_at),
        )
        .outerjoin(images, images.c.id == StudyRow.id)
        .where(sa.or_(StudyRow.state == StudyState.FAILED, images.c.id.is_not(None)))
        .order_by(StudyRow.last_received_at.desc())
        .limit(limit)
    )
    with database.read() as connection:
        return [FailedStudy(*row) for row in connection.execute(query)]


class StationFinding(NamedTuple):
    """Figures of one finding, and the station that made the image."""

    model_id: str
    model_key: str
    station: str
    probability: float
    positive: bool
    brightness: float
    created_at: float


def station_findings(database: Database, since: float) -> list[StationFinding]:
    """The findings since then, oldest first, without those of which no station is known."""
    query = (
        sa.select(*(getattr(FindingRow, name) for name in StationFinding._fields))
        .where(FindingRow.created_at >= since, FindingRow.station.is_not(None))
        .order_by(FindingRow.created_at, FindingRow.id)
    )
    with database.read() as connection:
        return [StationFinding(*row) for row in connection.execute(query)]


class LastFinding(NamedTuple):
    """The newest finding in one image, with its model and time."""

    finding: Finding
    model_id: str
    at: float


def last_findings(database: Database, instances: Sequence[Instance]) -> dict[int, LastFinding]:
    """The newest finding of whatever model in each of these images that is analyzed, by instance id."""
    ids = [instance.id for instance in instances if instance.state == InstanceState.ANALYZED]
    query = sa.select(FindingRow.__table__).where(FindingRow.instance_id.in_(ids)).order_by(FindingRow.id)
    with database.read() as connection:
        return {
            row.instance_id: LastFinding(finding_of(row), row.model_id, row.created_at)
            for row in connection.execute(query)
        }


class ReceivedImage(NamedTuple):
    """The receipt of an X-ray."""

    received_at: float
    calling_ae_title: str
    address: str
    sha256: str


def newest_images(database: Database, limit: int) -> list[ReceivedImage]:
    """The X-rays received last, newest first, without skipped objects."""
    query = (
        sa.select(*(getattr(InstanceRow, name) for name in ReceivedImage._fields))
        .where(InstanceRow.state != InstanceState.SKIPPED)
        .order_by(InstanceRow.id.desc())
        .limit(limit)
    )
    with database.read() as connection:
        return [ReceivedImage(*row) for row in connection.execute(query)]


@dataclass(frozen=True, slots=True)
class Filters:
    """Conditions on the studies of the worklist; empty ones do not matter."""

    state: str = ""
    outcome: str = ""
    modality: str = ""
    body_part: str = ""
    since: float | None = None
    """Received from then on."""
    until: float | None = None
    """Received before then."""
    words: tuple[str, ...] = ()
    """Each occurs in the Study Instance UID, the summary, the reason or, if permitted, the patient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedStudy:
    """One study of the worklist; times are None while a stage is not done."""

    id: int
    study_instance_uid: str
    state: VisibleState
    reason: str | None
    outcome: str | None
    """Of the newest report."""
    summary: str | None
    received_at: float
    complete_at: float
    """When the last image to be analyzed came in; else the first object."""
    analyzed_at: float | None
    reported_at: float | None
    delivered_at: float | None
    patients: tuple[tuple[str, str], ...]
    """Name and ID; more than one is an identity conflict."""
    modalities: tuple[str, ...]
    body_parts: tuple[str, ...]
    images: int
    """Received to be analyzed."""
    waiting: int
    """Of these, still to be analyzed."""
    analyzed: int
    probability: float | None
    """The highest of the images, by the newest report's model."""


@dataclass(frozen=True, slots=True)
class WorklistPage:
    """A part of the worklist."""

    studies: tuple[ListedStudy, ...]
    older: int | None
    """Where the next page begins; None at the end."""
    count: int
    """The number of all studies that match, up to MOST_COUNTED."""


def worklist(
    database: Database, filters: Filters, patients: bool, before: int | None = None, limit: int = 50
) -> WorklistPage:
    """A page of studies by newest arrival, from before a number of `WorklistPage.older` on.

    Without `patients` no patient is named nor found by name.
    """
    every = select_studies(
        StudyRow.id,
        StudyRow.study_instance_uid,
        visible_state().label("state"),
        StudyRow.reason,
        StudyRow.first_received_at.label("received_at"),
        ReportRow.outcome,
        ReportRow.summary,
        ReportRow.model_id,
        ReportRow.created_at.label("reported_at"),
    ).where(*_conditions(filters, patients))
    query = every if before is None else every.where(StudyRow.id < before)
    counted = every.with_only_columns(StudyRow.id).limit(MOST_COUNTED).subquery()
    with database.read() as connection:
        rows = connection.execute(query.order_by(StudyRow.id.desc()).limit(limit + 1)).mappings().all()
        count = connection.execute(sa.select(sa.func.count()).select_from(counted)).scalar_one()
        page = rows[:limit]
        objects = _objects(connection, [row["id"] for row in page])
        done = [row["id"] for row in page if row["state"] == VisibleState.DELIVERED]
        delivered_at = sa.func.max(sa.func.coalesce(DeliveryRow.committed_at, DeliveryRow.sent_at))
        deliveries = (
            sa.select(ResultRow.study_id, delivered_at)
            .join(DeliveryRow, DeliveryRow.result_id == ResultRow.id)
            .where(ResultRow.study_id.in_(done))
            .group_by(ResultRow.study_id)
        )
        delivered = dict(iter(connection.execute(deliveries)))
    listed = (_listed(row, objects.get(row["id"], []), delivered, patients) for row in page)
    return WorklistPage(tuple(listed), page[-1]["id"] if len(rows) > limit else None, count)


def worklist_choices(database: Database) -> tuple[list[str], list[str]]:
    """The modalities and the body parts that occur."""
    with database.read() as connection:
        modalities, parts = (
            connection.execute(sa.select(column).where(column != "").distinct().order_by(column)).scalars()
            for column in (InstanceRow.modality, InstanceRow.body_part)
        )
        return list(modalities), list(parts)


def _conditions(filters: Filters, patients: bool) -> list[sa.ColumnElement[bool]]:
    of_study = InstanceRow.study_id == StudyRow.id
    conditions: list[sa.ColumnElement[bool]] = []
    if filters.state:
        conditions.append(visible_state() == filters.state)
    if filters.outcome:
        conditions.append(ReportRow.outcome == filters.outcome)
    if filters.modality:
        conditions.append(sa.exists().where(of_study, InstanceRow.modality == filters.modality))
    if filters.body_part:
        conditions.append(sa.exists().where(of_study, InstanceRow.body_part == filters.body_part))
    if filters.since is not None:
        conditions.append(StudyRow.first_received_at >= filters.since)
    if filters.until is not None:
        conditions.append(StudyRow.first_received_at < filters.until)
    for word in filters.words:
        columns = (StudyRow.study_instance_uid, ReportRow.summary, StudyRow.reason)
        places = [_contains(column, word) for column in columns]
        if patients:
            named = [_contains(column, word) for column in (InstanceRow.patient_name, InstanceRow.patient_id)]
            places.append(sa.exists().where(of_study, sa.or_(*named)))
        conditions.append(sa.or_(*places))
    return conditions


def _contains(column: Any, word: str) -> sa.ColumnElement[bool]:
    # SQLite ignores the case of ASCII only; names are mostly written in capitals.
    cases = sorted({word.lower(), word.upper()})
    return sa.or_(*(column.icontains(case, autoescape=True) for case in cases))


def _objects(connection: sa.Connection, ids: Sequence[int]) -> dict[int, list[Any]]:
    """The newest version of each object of these studies: a row for each of its findings, or one without."""
    query = (
        sa.select(
            InstanceRow.study_id,
            InstanceRow.id,
            InstanceRow.sop_instance_uid,
            InstanceRow.state,
            InstanceRow.received_at,
            InstanceRow.modality,
            InstanceRow.body_part,
            InstanceRow.patient_name,
            InstanceRow.patient_id,
            FindingRow.probability,
            FindingRow.model_id,
            FindingRow.created_at,
        )
        .outerjoin(FindingRow, FindingRow.instance_id == InstanceRow.id)
        .where(InstanceRow.study_id.in_(ids))
        .order_by(InstanceRow.id, FindingRow.id)
    )
    rows = connection.execute(query).all()
    newest = {(row.study_id, row.sop_instance_uid): row.id for row in rows}
    objects: dict[int, list[Any]] = {}
    for row in rows:
        if newest[row.study_id, row.sop_instance_uid] == row.id:
            objects.setdefault(row.study_id, []).append(row)
    return objects


def _listed(
    row: sa.RowMapping, objects: Sequence[Any], delivered: dict[int, float], patients: bool
) -> ListedStudy:
    images = [item for item in objects if item.state != InstanceState.SKIPPED]
    last = {item.id: item for item in images if item.probability is not None}
    of_report = [item.probability for item in last.values() if item.model_id == row["model_id"]]
    values = {name: row[name] for name in row if name != "model_id"}
    return ListedStudy(
        **(values | {"state": VisibleState(row["state"])}),
        complete_at=max((item.received_at for item in images), default=row["received_at"]),
        analyzed_at=max((item.created_at for item in last.values()), default=None),
        delivered_at=delivered.get(row["id"]),
        patients=tuple(sorted({(item.patient_name, item.patient_id) for item in objects}))
        if patients
        else (),
        modalities=tuple(sorted({item.modality for item in images or objects} - {""})),
        body_parts=tuple(sorted({item.body_part for item in images or objects} - {""})),
        images=len({item.id for item in images}),
        waiting=len({item.id for item in images if item.state == InstanceState.RECEIVED}),
        analyzed=len({item.id for item in images if item.state == InstanceState.ANALYZED}),
        probability=max(of_report, default=None),
    )
