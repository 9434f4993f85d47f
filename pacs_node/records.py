"""Frozen types and enums shared by all parts of the node.

Coordinates are DICOM's: column first, in pixels of the source image as stored, the top-left corner of the
first pixel at (0, 0) and its centre at (0.5, 0.5) (PS3.3 C.18.6.1.1, the half-pixel rule of SCOORD).
Times are seconds since the epoch, UTC.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # Commands that only look into the journal need neither pydicom nor NumPy, which take long to load.
    from pydicom.dataset import Dataset
    from pydicom.sr.coding import Code

    from pacs_node.heatmap import HeatMap

Point = tuple[float, float]
"""(column, row) in source pixel coordinates."""


class InstanceState(StrEnum):
    """State of a received image."""

    RECEIVED = "RECEIVED"
    ANALYZED = "ANALYZED"
    SKIPPED = "SKIPPED"
    FAILED = "FAILED"


class StudyState(StrEnum):
    """State of a study in the queues."""

    OPEN = "OPEN"
    REPORTED = "REPORTED"
    SKIPPED = "SKIPPED"
    FAILED = "FAILED"


class VisibleState(StrEnum):
    """A study's state as people see it; the states of its deliveries are part of it."""

    OPEN = "OPEN"
    READY = "READY"
    """Reported, and on its way to the destinations."""
    DELIVERED = "DELIVERED"
    QUARANTINED = "QUARANTINED"
    REPORTED = "REPORTED"
    """Reported, and goes nowhere."""
    SKIPPED = "SKIPPED"
    FAILED = "FAILED"


class DeliveryState(StrEnum):
    """State of the delivery of a result to a destination."""

    PENDING = "PENDING"
    SENT = "SENT"
    COMMITTED = "COMMITTED"
    QUARANTINED = "QUARANTINED"
    DISCARDED = "DISCARDED"
    """Given up by an administrator; nothing is sent any more."""


class ResultRole(StrEnum):
    """The two kinds of results: a study's Structured Report and an image's Secondary Capture."""

    SR = "SR"
    SC = "SC"


class Outcome(StrEnum):
    """The statement of a report about its study."""

    POSITIVE = "POSITIVE"
    NEGATIVE = "NEGATIVE"
    FAILED = "FAILED"


class AuditKind(StrEnum):
    """The kinds of audit events; their names stand in the log for ever, so none is ever changed."""

    RECEIVED = "received"
    DUPLICATE_RECEIVED = "duplicate_received"
    SKIPPED = "skipped"
    UNREADABLE = "unreadable"

    ANALYZED = "analyzed"
    FINDING_COPIED = "finding_copied"
    HEADER_CHANGED = "header_changed"
    CONTENT_CONFLICT = "content_conflict"
    ANALYSIS_SKIPPED = "analysis_skipped"
    ANALYSIS_FAILED = "analysis_failed"
    ANALYSIS_POSTPONED = "analysis_postponed"
    ANALYSIS_REOPENED = "analysis_reopened"

    STUDY_COUNTED = "study_counted"
    STUDY_NOT_COUNTED = "study_not_counted"
    STUDY_SKIPPED = "study_skipped"
    STUDY_FAILED = "study_failed"
    REPORTED = "reported"
    REPORT_UNCHANGED = "report_unchanged"
    REPORT_POSTPONED = "report_postponed"
    REPORT_FAILED = "report_failed"
    FAILURE_REPORT_SUPPRESSED = "failure_report_suppressed"
    RETRIED = "retried"
    REANALYZED = "reanalyzed"

    SENT = "sent"
    SENT_BY_HAND = "sent_by_hand"
    DELIVERY_FAILED = "delivery_failed"
    DELIVERY_STALLED = "delivery_stalled"
    DELIVERY_QUARANTINED = "delivery_quarantined"
    DELIVERY_RETRIED = "delivery_retried"
    DELIVERY_DISCARDED = "delivery_discarded"
    COMMITMENT_REQUESTED = "commitment_requested"
    COMMITMENT_POSTPONED = "commitment_postponed"
    COMMITMENT_FAILED = "commitment_failed"
    COMMITMENT_ASSUMED_BY_QUERY = "commitment_assumed_by_query"
    COMMITMENTS_WAIVED = "commitments_waived"
    COMMITTED = "committed"

    RECONCILED = "reconciled"
    RESULT_MISSED = "result_missed"
    IMAGES_REQUESTED = "images_requested"

    FEEDBACK = "feedback"
    VALIDATION_PASSED = "validation_passed"
    VALIDATION_TOO_FEW = "validation_too_few"
    VALIDATION_ALARM = "validation_alarm"

    CALENDAR_VALIDATION = "calendar_validation"
    CALENDAR_RETENTION = "calendar_retention"
    CALENDAR_BACKUP = "calendar_backup"
    CALENDAR_DISK = "calendar_disk"
    CALENDAR_ECHO = "calendar_echo"
    CALENDAR_FAILED = "calendar_failed"
    DISK_LOW = "disk_low"
    DISK_OK = "disk_ok"
    DESTINATION_UNREACHABLE = "destination_unreachable"
    DESTINATION_REACHABLE = "destination_reachable"
    CLOCK_JUMPED = "clock_jumped"
    PROBLEM_DISMISSED = "problem_dismissed"
    PURGED = "purged"
    ORPHAN_REGISTERED_AGAIN = "orphan_registered_again"
    ORPHAN_REMOVED = "orphan_removed"

    LOGGED_IN = "logged_in"
    LOGGED_OUT = "logged_out"
    LOGIN_FAILED = "login_failed"
    USER_CHANGED = "user_changed"
    STUDY_VIEWED = "study_viewed"
    PATIENTS_LISTED = "patients_listed"
    TRIED_OUT = "tried_out"

    @classmethod
    def of_job(cls, name: str) -> AuditKind:
        """The kind of event that a job of the calendar leaves when it succeeded."""
        return cls(f"calendar_{name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A stored object: its sender, its file and its identifiers."""

    sha256: str
    size: int
    received_at: float
    calling_ae_title: str
    called_ae_title: str
    address: str
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    modality: str
    patient_id: str
    patient_name: str = ""
    """PatientName (0010,0010) as text, for users who may see it."""
    body_part: str = ""
    """BodyPartExamined (0018,0015); empty if it is not stated."""

    @property
    def uids(self) -> tuple[str, str]:
        """StudyInstanceUID and SOPInstanceUID."""
        return self.study_instance_uid, self.sop_instance_uid

    def received(self) -> dict[str, Any]:
        """These values by name, without those of a subclass."""
        return {each.name: getattr(self, each.name) for each in fields(Received)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival(Received):
    """An object that was durably stored and is to be registered in the journal."""

    skip_reason: str | None
    """Why it is not to be analyzed; None for an X-ray that the node accepts."""
    may_be_xray: bool = False
    """Whether the report of its study must account for it even if it is skipped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance(Received):
    """One registered object, as the queues and the reports see it."""

    id: int
    study_id: int
    state: InstanceState
    reason: str | None
    attempts: int


@dataclass(frozen=True, slots=True)
class Study:
    """One study, as the queues and the reports see it."""

    id: int
    study_instance_uid: str
    state: StudyState
    reason: str | None
    revision: int
    attempts: int
    first_received_at: float
    last_received_at: float
    renewed: int = 0
    """Revision since which its results are new objects with new UIDs; 0: never requested."""


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Identity, codes and phrases of a model: the part of a model package that reports need."""

    id: str
    name: str
    version: str
    sha256: str
    threshold: float
    """Operating point on the calibrated probability, 0..1; at or above it is positive."""
    finding: Code
    """The concept looked for, such as (125605004, SCT, "Fracture of bone")."""
    positive_phrase: str
    """The words of a positive answer, such as "Fracture suspected"."""
    negative_phrase: str
    """Its opposite, such as "no fracture suspected"."""
    negative_caveat: str
    """The limit of a negative answer, such as "Does not exclude a fracture."."""
    explanation: str = "Grad-CAM"
    """How the heat maps were made, as the results name it."""
    body_parts: tuple[str, ...] = ()
    """Body parts that it knows, as BodyPartExamined; empty: all."""
    scope_limit: float = 1.0
    """How unlike what it knows an image may be, 1: as its package says; 0: neither that nor the body part
    is checked."""

    @property
    def full_version(self) -> str:
        """The version with the beginning of the weights' hash: "1.0.0+sha256:ab12cd34"."""
        return f"{self.version}+sha256:{self.sha256[:8]}"

    @property
    def parameters(self) -> str:
        """The settings of its answers: "threshold=0.24", and the limit of the scope where it was changed."""
        scope = "" if self.scope_limit == 1 else f"; scope_limit={self.scope_limit:g}"
        return f"threshold={self.threshold:g}{scope}"

    def phrase(self, positive: bool) -> str:
        """The words for a positive or a negative answer."""
        return self.positive_phrase if positive else self.negative_phrase

    @property
    def key(self) -> str:
        """sha256 of all that decides an answer: a stored finding is valid for this key only."""
        scope = "" if self.scope_limit == 1 else f":scope {self.scope_limit!r}"
        return hashlib.sha256(f"{self.sha256}:{self.threshold!r}{scope}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Region:
    """A suspicious region: an open polygon in source coordinates, and the map's peak in it (0..1)."""

    polygon: tuple[Point, ...]
    score: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Its bounding box: left, top, right, bottom."""
        columns = [point[0] for point in self.polygon]
        rows = [point[1] for point in self.polygon]
        return min(columns), min(rows), max(columns), max(rows)


PERCENTILES_SHOW_MORE = (
    "the stated rescale, window or LUT shows next to nothing; a percentile window was used"
)
"""The note that the report repeats: the picture that was analyzed is not the one that viewers show."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The model's answer for an image."""

    content_key: str
    """sha256 of the decoded pixels and the attributes that interpret them: the identity of content."""
    probability: float
    """Calibrated, 0..1, rounded to four decimals here and nowhere else."""
    positive: bool
    heat_map: HeatMap
    regions: tuple[Region, ...]
    """Suspicious regions, strongest first; empty where the image is negative."""
    notes: tuple[str, ...] = ()
    """Oddities of the image for the audit log, such as contradictory inversion attributes."""
    station: str | None = None
    """StationName, else ManufacturerModelName, else empty; None in findings of before it was kept."""
    brightness: float | None = None
    """Mean of the image as displayed, 0..1; None in findings of before it was kept."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """The result of analyzing an image: a finding, or the reason why there is none."""

    instance: Instance
    finding: Finding | None
    failure: str | None = None
    copied: bool = False
    """Whether the finding is that of another version with the same content: the model did not run."""
    changed: tuple[str, ...] = ()
    """Keywords of patient, study and file attributes in which it differs from the version before it."""
    skipped: bool = False
    """Whether the image is outside of the model's scope by its header; `failure` gives the reason."""
    scope: float | None = None
    """See `Prediction.scope`."""

    @property
    def state(self) -> InstanceState:
        """The state that the image takes."""
        if self.finding:
            return InstanceState.ANALYZED
        return InstanceState.SKIPPED if self.skipped else InstanceState.FAILED


@dataclass(frozen=True, slots=True)
class ImageResult:
    """An image of a study with its finding, or the reason why there is none."""

    instance: Instance
    source: Dataset
    """The source's header, without pixel data."""
    finding: Finding | None
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Predecessor:
    """The report that an amended report replaces."""

    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    created_at: float


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """Identity of the node: created with the journal and never changed."""

    namespace: str
    """UUID from which every UID of a result is derived (version 5)."""
    device_uid: str
    ae_title: str


@dataclass(frozen=True, slots=True)
class ReportRequest:
    """Everything that a report is made from."""

    node: NodeIdentity
    model: ModelIdentity
    study_instance_uid: str
    revision: int
    created_at: float
    images: tuple[ImageResult, ...]
    """The images that the report accounts for, as `pipeline.report_basis` chose them; never empty."""
    predecessor: Predecessor | None
    renewed: int = 0
    """See `Study.renewed`."""
    missing_images: int = 0
    """Number of images that the PACS has of this study and the node never received, if the PACS was asked."""


@dataclass(frozen=True, slots=True)
class Result:
    """A checked and stored result, ready to be delivered."""

    role: ResultRole
    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    sha256: str
    size: int
    source_instance_id: int | None
    """The image that an SC shows; None for an SR."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A result on its way to a destination."""

    id: int
    result_id: int
    study_id: int
    study_instance_uid: str
    destination: str
    role: ResultRole
    sop_instance_uid: str
    sop_class_uid: str
    sha256: str
    attempts: int


class Reply(StrEnum):
    """The fate of one object at a destination, as its transport judged the answer."""

    DELIVERED = "DELIVERED"
    DUPLICATE = "DUPLICATE"
    """An object with this UID is there already; it is this result only if an earlier attempt sent it."""
    REFUSED = "REFUSED"
    """Another attempt with the same object is useless."""
    LATER = "LATER"


@dataclass(frozen=True, slots=True)
class SendOutcome:
    """A destination's answer for one object."""

    status: int | None
    """C-STORE status (PS3.4 B.2.3), or STOW-RS FailureReason or WarningReason (PS3.18 I.2.2), if any."""
    comment: str
    reply: Reply = Reply.LATER
    retry_after: float = 0.0
    """Seconds that the destination asks to wait before the next attempt."""


@dataclass(frozen=True, slots=True)
class CommitmentReport:
    """An archive's answer to a storage commitment: the objects that it keeps, and those that it does not."""

    transaction_uid: str
    committed: frozenset[str]
    """SOP Instance UIDs."""
    failed: dict[str, str]
    """SOP Instance UIDs, each with the reason."""


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One line of the audit log."""

    seq: int
    at: float
    event: str
    study_instance_uid: str | None
    sop_instance_uid: str | None
    details: dict[str, Any]
    prev_hash: str
    hash: str


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in the content-addressed store."""

    sha256: str
    size: int
    path: Path


@dataclass(frozen=True, slots=True)
class RunningRole:
    """One process of the node: what it does, where, and whether it is ready for work."""

    role: str
    host: str
    pid: int
    address: str
    ready: bool
    stats: dict[str, float] = field(default_factory=dict)
    """Figures that only the process itself has, such as its open associations; by name, for /metrics."""
    seen_at: float = 0.0
    """Time of its last heartbeat."""


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """A classifier's answer for an image."""

    probability: float
    """Calibrated, 0..1, rounded to four decimals."""
    heat_map: HeatMap
    margin: float = math.nan
    """Logit of the positive label minus that of the negative, before calibration; NaN if unknown."""
    scope: float | None = None
    """Distance of the image from the training images, 1 being the package's limit; None if unknown."""
