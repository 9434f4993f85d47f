"""The tables. Times are seconds since the epoch, UTC; states are those of `records`."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

REVISION = "0004"
"""The newest migration: what a database must be at for this version."""

UID_LENGTH = 128
"""Twice what the standard allows, because the field sends longer ones than it may."""


class Told(TypeDecorator[str]):
    """Text that others sent, without what PostgreSQL refuses: NUL, and more than the column's length."""

    impl = String
    cache_ok = True
    impl_instance: String

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """What goes to the database."""
        length = self.impl_instance.length
        return None if value is None else value.replace("\0", "")[:length]


class ToldText(Told):
    """The same of any length."""

    impl = Text
    cache_ok = True


def _held_by(table: str) -> Index:
    """Finds the few rows that are under a lease."""
    held = text("lease_token IS NOT NULL")
    return Index(f"ix_{table}_lease_token", "lease_token", sqlite_where=held, postgresql_where=held)


class Base(DeclarativeBase):
    """Names every constraint, so that migrations can name them too."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Leased:
    """What every queue's table has: the state, when it is due, and who holds it until when."""

    state: Mapped[str] = mapped_column(String(16))
    due_at: Mapped[float] = mapped_column(Float(53))
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    lease_token: Mapped[str | None] = mapped_column(String(36))
    lease_until: Mapped[float] = mapped_column(Float(53), default=0.0)


class NodeRow(Base):
    """Who we are: one row, made with the database."""

    __tablename__ = "node"

    id: Mapped[int] = mapped_column(primary_key=True)
    namespace: Mapped[str] = mapped_column(String(36))
    device_uid: Mapped[str] = mapped_column(String(64))


class StudyRow(Leased, Base):
    """One study; `revision` counts what came in that is to be reported."""

    __tablename__ = "studies"
    __table_args__ = (Index(None, "state", "due_at"), _held_by("studies"))

    id: Mapped[int] = mapped_column(primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(String(UID_LENGTH), unique=True)
    reason: Mapped[str | None] = mapped_column(ToldText)
    revision: Mapped[int] = mapped_column(Integer, default=0)
    first_received_at: Mapped[float] = mapped_column(Float(53))
    last_received_at: Mapped[float] = mapped_column(Float(53), index=True)
    # The revision for which the PACS was asked how many images there are, and which of them are not here.
    counted_revision: Mapped[int | None] = mapped_column(Integer)
    expected: Mapped[int | None] = mapped_column(Integer)
    missing: Mapped[str] = mapped_column(Text, default="[]", server_default="[]")
    # From this revision on, the results are new objects with new UIDs; 0: nobody asked for that.
    renewed_revision: Mapped[int] = mapped_column(Integer, default=0, server_default="0")


class InstanceRow(Leased, Base):
    """One received object. The same SOPInstanceUID with other bytes is another row; the newest counts."""

    __tablename__ = "instances"
    __table_args__ = (
        UniqueConstraint("sop_instance_uid", "sha256"),
        Index(None, "state", "attempts", "id"),
        Index(None, "study_id", "state"),
        _held_by("instances"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"))
    series_instance_uid: Mapped[str] = mapped_column(String(UID_LENGTH))
    sop_instance_uid: Mapped[str] = mapped_column(String(UID_LENGTH))
    sop_class_uid: Mapped[str] = mapped_column(String(UID_LENGTH))
    transfer_syntax_uid: Mapped[str] = mapped_column(String(UID_LENGTH))
    modality: Mapped[str] = mapped_column(Told(16))
    patient_id: Mapped[str] = mapped_column(ToldText)
    patient_name: Mapped[str] = mapped_column(ToldText, default="", server_default="")
    body_part: Mapped[str] = mapped_column(Told(64), default="", server_default="")
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    size: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"))
    received_at: Mapped[float] = mapped_column(Float(53))
    calling_ae_title: Mapped[str] = mapped_column(Told(16))
    called_ae_title: Mapped[str] = mapped_column(Told(16))
    address: Mapped[str] = mapped_column(Told(64))
    reason: Mapped[str | None] = mapped_column(ToldText)


class FindingRow(Base):
    """What one model said of one image; spares any second run of the model."""

    __tablename__ = "findings"
    __table_args__ = (UniqueConstraint("instance_id", "model_key"), Index(None, "created_at"))

    id: Mapped[int] = mapped_column(primary_key=True)
    instance_id: Mapped[int] = mapped_column(ForeignKey("instances.id"))
    model_key: Mapped[str] = mapped_column(String(64))
    content_key: Mapped[str] = mapped_column(String(64))
    probability: Mapped[float] = mapped_column(Float(53))
    positive: Mapped[bool]
    heat_map: Mapped[bytes] = mapped_column(LargeBinary)
    regions: Mapped[str] = mapped_column(Text)
    notes: Mapped[str] = mapped_column(Text)
    created_at: Mapped[float] = mapped_column(Float(53))
    # NULL in the rows of before 0002.
    model_id: Mapped[str | None] = mapped_column(String(128))
    station: Mapped[str | None] = mapped_column(Told(64))
    brightness: Mapped[float | None] = mapped_column(Float(53))


class FeedbackRow(Base):
    """One label that came back, with what had been said by then. Rows are added, never changed.

    No foreign keys: labels outlive what they tell of. `digest` keeps the same label from being added twice.
    """

    __tablename__ = "feedback"

    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    recorded_at: Mapped[float] = mapped_column(Float(53))
    study_instance_uid: Mapped[str] = mapped_column(String(UID_LENGTH), index=True)
    sop_instance_uid: Mapped[str | None] = mapped_column(String(UID_LENGTH))
    label: Mapped[str] = mapped_column(String(16))
    who: Mapped[str] = mapped_column(Text)
    at: Mapped[float] = mapped_column(Float(53))
    region: Mapped[str | None] = mapped_column(Text)
    comment: Mapped[str] = mapped_column(Text)
    source: Mapped[str] = mapped_column(Text)
    model_id: Mapped[str | None] = mapped_column(String(128))
    model_key: Mapped[str | None] = mapped_column(String(64))
    probability: Mapped[float | None] = mapped_column(Float(53))
    positive: Mapped[bool | None]


class ReportRow(Base):
    """One report of a study. `inputs_key` says from what, so that nothing is reported twice."""

    __tablename__ = "reports"

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), index=True)
    revision: Mapped[int] = mapped_column(Integer)
    inputs_key: Mapped[str] = mapped_column(String(64))
    model_id: Mapped[str] = mapped_column(String(128))
    model_sha256: Mapped[str] = mapped_column(String(64))
    outcome: Mapped[str] = mapped_column(String(16))
    summary: Mapped[str] = mapped_column(Text)
    created_at: Mapped[float] = mapped_column(Float(53))


class ResultRow(Base):
    """One object of ours, committed before it is first sent and never made again."""

    __tablename__ = "results"

    id: Mapped[int] = mapped_column(primary_key=True)
    report_id: Mapped[int] = mapped_column(ForeignKey("reports.id"), index=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), index=True)
    instance_id: Mapped[int | None] = mapped_column(ForeignKey("instances.id"), index=True)
    role: Mapped[str] = mapped_column(String(2))
    sop_instance_uid: Mapped[str] = mapped_column(String(64), unique=True)
    sop_class_uid: Mapped[str] = mapped_column(String(64))
    series_instance_uid: Mapped[str] = mapped_column(String(64))
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    size: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[float] = mapped_column(Float(53))


class DeliveryRow(Leased, Base):
    """One result on its way to one destination."""

    __tablename__ = "deliveries"
    __table_args__ = (
        UniqueConstraint("result_id", "destination"),
        Index(None, "destination", "state", "due_at"),
        _held_by("deliveries"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    result_id: Mapped[int] = mapped_column(ForeignKey("results.id"))
    destination: Mapped[str] = mapped_column(String(128))
    last_status: Mapped[int | None] = mapped_column(Integer)
    last_comment: Mapped[str] = mapped_column(ToldText, default="")
    sent_at: Mapped[float | None] = mapped_column(Float(53))
    # The storage commitment that was asked for; empty while it is still to be asked for, NULL where none is.
    transaction_uid: Mapped[str | None] = mapped_column(String(64), index=True)
    committed_at: Mapped[float | None] = mapped_column(Float(53))


class AuditRow(Base):
    """One audit event, chained to the one before it. No foreign keys: events outlive what they tell of."""

    __tablename__ = "audit"

    seq: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    at: Mapped[float] = mapped_column(Float(53))
    event: Mapped[str] = mapped_column(String(64))
    study_instance_uid: Mapped[str | None] = mapped_column(String(UID_LENGTH), index=True)
    sop_instance_uid: Mapped[str | None] = mapped_column(String(UID_LENGTH))
    details: Mapped[str] = mapped_column(Text)
    prev_hash: Mapped[str] = mapped_column(String(64))
    hash: Mapped[str] = mapped_column(String(64))


class AuditHeadRow(Base):
    """The newest event's number and hash, one row: whoever appends holds it until the commit."""

    __tablename__ = "audit_head"

    id: Mapped[int] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(Integer)
    hash: Mapped[str] = mapped_column(String(64))


class RoleRow(Base):
    """One running process of the node."""

    __tablename__ = "roles"
    __table_args__ = (UniqueConstraint("role", "host", "pid"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    role: Mapped[str] = mapped_column(String(16))
    host: Mapped[str] = mapped_column(String(255))
    pid: Mapped[int] = mapped_column(Integer)
    address: Mapped[str] = mapped_column(String(255))
    ready: Mapped[bool]
    seen_at: Mapped[float] = mapped_column(Float(53))
    stats: Mapped[str] = mapped_column(Text, default="{}", server_default="{}")


class LeaseRow(Base):
    """Work that only one process of all may do: which one, until when."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(String(16), primary_key=True)
    token: Mapped[str] = mapped_column(String(36))
    lease_until: Mapped[float] = mapped_column(Float(53))


class SessionRow(Base):
    """Somebody who is logged in to the web page. The cookie holds the token, this row only its sha256."""

    __tablename__ = "sessions"

    token_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    who: Mapped[str] = mapped_column(String(128), index=True)
    role: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[float] = mapped_column(Float(53))
    seen_at: Mapped[float] = mapped_column(Float(53))
