"""The tables. Times are seconds since the epoch, UTC; states are those of `records`."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

REVISION = "0001"
"""The newest migration, which this version's database must be at."""

UID_LENGTH = 128
"""Twice what the standard allows, because longer UIDs occur in the field."""


class ReceivedString(sa.TypeDecorator[str]):
    """Text from other systems, cut to the column's length and without NUL, which PostgreSQL refuses."""

    impl = sa.String
    cache_ok = True
    impl_instance: sa.String

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        """The value that the database gets."""
        length = self.impl_instance.length
        return None if value is None else value.replace("\0", "")[:length]


class ReceivedText(ReceivedString):
    """The same of any length."""

    impl = sa.Text
    cache_ok = True


class Base(DeclarativeBase):
    """Names every constraint, so that migrations can name them too."""

    type_annotation_map = {str: sa.Text, float: sa.Float(53)}  # noqa: RUF012 - read by SQLAlchemy as it is
    metadata = sa.MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Leased:
    """Columns of every queue's table: the state, when it is due, and which lease holds it until when."""

    state: Mapped[str] = mapped_column(sa.String(16))
    due_at: Mapped[float]
    attempts: Mapped[int] = mapped_column(default=0)
    lease_token: Mapped[str | None] = mapped_column(sa.String(36))
    lease_until: Mapped[float] = mapped_column(default=0.0)


def leased_index(table: str) -> sa.Index:
    """Finds the few rows that are under a lease."""
    leased = sa.text("lease_token IS NOT NULL")
    return sa.Index(f"ix_{table}_lease_token", "lease_token", sqlite_where=leased, postgresql_where=leased)


class NodeRow(Base):
    """The node's identity: one row, made with the database."""

    __tablename__ = "node"

    id: Mapped[int] = mapped_column(primary_key=True)
    namespace: Mapped[str] = mapped_column(sa.String(36))
    device_uid: Mapped[str] = mapped_column(sa.String(64))


class StudyRow(Leased, Base):
    """One study; `revision` counts the arrivals that are to be reported."""

    __tablename__ = "studies"
    __table_args__ = (sa.Index(None, "state", "due_at"), leased_index("studies"))

    id: Mapped[int] = mapped_column(primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(sa.String(UID_LENGTH), unique=True)
    reason: Mapped[str | None] = mapped_column(ReceivedText)
    revision: Mapped[int] = mapped_column(default=0)
    first_received_at: Mapped[float]
    last_received_at: Mapped[float] = mapped_column(index=True)
    # The revision for which the PACS was asked how many images there are, and which of them are not here.
    counted_revision: Mapped[int | None]
    expected: Mapped[int | None]
    missing: Mapped[str] = mapped_column(default="[]", server_default="[]")
    # From this revision on, the results are new objects with new UIDs; 0: never requested.
    renewed_revision: Mapped[int] = mapped_column(default=0, server_default="0")


class InstanceRow(Leased, Base):
    """One received object. The same SOPInstanceUID with other bytes is another row; the newest counts."""

    __tablename__ = "instances"
    __table_args__ = (
        sa.UniqueConstraint("sop_instance_uid", "sha256"),
        sa.Index(None, "state", "attempts", "id"),
        sa.Index(None, "study_id", "state"),
        leased_index("instances"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(sa.ForeignKey("studies.id"))
    series_instance_uid: Mapped[str] = mapped_column(sa.String(UID_LENGTH))
    sop_instance_uid: Mapped[str] = mapped_column(sa.String(UID_LENGTH))
    sop_class_uid: Mapped[str] = mapped_column(sa.String(UID_LENGTH))
    transfer_syntax_uid: Mapped[str] = mapped_column(sa.String(UID_LENGTH))
    modality: Mapped[str] = mapped_column(ReceivedString(16))
    patient_id: Mapped[str] = mapped_column(ReceivedText)
    patient_name: Mapped[str] = mapped_column(ReceivedText, default="", server_default="")
    body_part: Mapped[str] = mapped_column(ReceivedString(64), default="", server_default="")
    sha256: Mapped[str] = mapped_column(sa.String(64), index=True)
    size: Mapped[int] = mapped_column(sa.BigInteger().with_variant(sa.Integer, "sqlite"))
    received_at: Mapped[float]
    calling_ae_title: Mapped[str] = mapped_column(ReceivedString(16))
    called_ae_title: Mapped[str] = mapped_column(ReceivedString(16))
    address: Mapped[str] = mapped_column(ReceivedString(64))
    reason: Mapped[str | None] = mapped_column(ReceivedText)


class FindingRow(Base):
    """One model's finding in one image; spares any second run of the model."""

    __tablename__ = "findings"
    __table_args__ = (sa.UniqueConstraint("instance_id", "model_key"), sa.Index(None, "created_at"))

    id: Mapped[int] = mapped_column(primary_key=True)
    instance_id: Mapped[int] = mapped_column(sa.ForeignKey("instances.id"))
    model_id: Mapped[str] = mapped_column(sa.String(128))
    model_key: Mapped[str] = mapped_column(sa.String(64))
    content_key: Mapped[str] = mapped_column(sa.String(64))
    probability: Mapped[float]
    positive: Mapped[bool]
    heat_map: Mapped[bytes]
    regions: Mapped[str]
    notes: Mapped[str]
    station: Mapped[str | None] = mapped_column(ReceivedString(64))
    brightness: Mapped[float | None]
    created_at: Mapped[float]


class FeedbackRow(Base):
    """One label given by a person, with the finding of that time. Rows are added, never changed.

    No foreign keys: labels outlive the images they are about. `digest` keeps the same label from being added
    twice.
    """

    __tablename__ = "feedback"

    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(sa.String(64), unique=True)
    recorded_at: Mapped[float]
    study_instance_uid: Mapped[str] = mapped_column(sa.String(UID_LENGTH), index=True)
    sop_instance_uid: Mapped[str | None] = mapped_column(sa.String(UID_LENGTH))
    label: Mapped[str] = mapped_column(sa.String(16))
    who: Mapped[str]
    at: Mapped[float]
    region: Mapped[str | None]
    comment: Mapped[str]
    source: Mapped[str]
    model_id: Mapped[str | None] = mapped_column(sa.String(128))
    model_key: Mapped[str | None] = mapped_column(sa.String(64))
    probability: Mapped[float | None]
    positive: Mapped[bool | None]


class ReportRow(Base):
    """One report of a study. `inputs_key` identifies its inputs, so that nothing is reported twice."""

    __tablename__ = "reports"

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(sa.ForeignKey("studies.id"), index=True)
    revision: Mapped[int]
    inputs_key: Mapped[str] = mapped_column(sa.String(64))
    model_id: Mapped[str] = mapped_column(sa.String(128))
    model_sha256: Mapped[str] = mapped_column(sa.String(64))
    outcome: Mapped[str] = mapped_column(sa.String(16))
    summary: Mapped[str]
    created_at: Mapped[float]


class ResultRow(Base):
    """One object made by this node, committed before it is first sent and never made again."""

    __tablename__ = "results"

    id: Mapped[int] = mapped_column(primary_key=True)
    report_id: Mapped[int] = mapped_column(sa.ForeignKey("reports.id"), index=True)
    study_id: Mapped[int] = mapped_column(sa.ForeignKey("studies.id"), index=True)
    instance_id: Mapped[int | None] = mapped_column(sa.ForeignKey("instances.id"), index=True)
    role: Mapped[str] = mapped_column(sa.String(2))
    sop_instance_uid: Mapped[str] = mapped_column(sa.String(64), unique=True)
    sop_class_uid: Mapped[str] = mapped_column(sa.String(64))
    series_instance_uid: Mapped[str] = mapped_column(sa.String(64))
    sha256: Mapped[str] = mapped_column(sa.String(64), index=True)
    size: Mapped[int]
    created_at: Mapped[float]


class DeliveryRow(Leased, Base):
    """One result on its way to one destination."""

    __tablename__ = "deliveries"
    __table_args__ = (
        sa.UniqueConstraint("result_id", "destination"),
        sa.Index(None, "destination", "state", "due_at"),
        leased_index("deliveries"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    result_id: Mapped[int] = mapped_column(sa.ForeignKey("results.id"))
    destination: Mapped[str] = mapped_column(sa.String(128))
    last_status: Mapped[int | None]
    last_comment: Mapped[str] = mapped_column(ReceivedText, default="")
    sent_at: Mapped[float | None]
    # The requested storage commitment: empty while still to be requested, NULL where none is wanted.
    transaction_uid: Mapped[str | None] = mapped_column(sa.String(64), index=True)
    committed_at: Mapped[float | None]


class AuditRow(Base):
    """One audit event, chained to its predecessor. No foreign keys: events outlive what they are about."""

    __tablename__ = "audit"
    __table_args__ = (sa.Index(None, "event", "seq"),)

    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[float]
    event: Mapped[str] = mapped_column(sa.String(64))
    study_instance_uid: Mapped[str | None] = mapped_column(sa.String(UID_LENGTH), index=True)
    sop_instance_uid: Mapped[str | None] = mapped_column(sa.String(UID_LENGTH))
    details: Mapped[str]
    prev_hash: Mapped[str] = mapped_column(sa.String(64))
    hash: Mapped[str] = mapped_column(sa.String(64))


class AuditHeadRow(Base):
    """The newest event's number and hash: one row, locked from an event's writing to the commit."""

    __tablename__ = "audit_head"

    id: Mapped[int] = mapped_column(primary_key=True)
    seq: Mapped[int]
    hash: Mapped[str] = mapped_column(sa.String(64))


class RoleRow(Base):
    """One running process of the node."""

    __tablename__ = "roles"
    __table_args__ = (sa.UniqueConstraint("role", "host", "pid"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    role: Mapped[str] = mapped_column(sa.String(16))
    host: Mapped[str] = mapped_column(sa.String(255))
    pid: Mapped[int]
    address: Mapped[str] = mapped_column(sa.String(255))
    ready: Mapped[bool]
    seen_at: Mapped[float]
    stats: Mapped[str] = mapped_column(default="{}", server_default="{}")


class LeaseRow(Base):
    """Work that only one of all processes may do, and the lease of the one that does it."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(sa.String(16), primary_key=True)
    token: Mapped[str] = mapped_column(sa.String(36))
    lease_until: Mapped[float]


class SessionRow(Base):
    """A user who is logged in to the web page. The cookie holds the token, this row only its sha256."""

    __tablename__ = "sessions"

    token_sha256: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    who: Mapped[str] = mapped_column(sa.String(128), index=True)
    role: Mapped[str] = mapped_column(sa.String(16))
    created_at: Mapped[float]
    seen_at: Mapped[float]


def select_deliveries(*columns: Any) -> sa.Select[Any]:
    """Columns of deliveries, their results and their studies."""
    return (
        sa.select(*columns)
        .select_from(DeliveryRow)
        .join(ResultRow, ResultRow.id == DeliveryRow.result_id)
        .join(StudyRow, StudyRow.id == ResultRow.study_id)
    )


def select_instances(*columns: Any) -> sa.Select[Any]:
    """Columns of instances and their studies."""
    return sa.select(*columns).select_from(InstanceRow).join(StudyRow, StudyRow.id == InstanceRow.study_id)
