"""The metrics for Prometheus: figures of the whole node, read from the journal at each scrape.

Counters and histograms count from the start of the process that answers, as Prometheus expects; gauges show
the present state. Figures that only a process itself knows come from its heartbeat. None is patient data.
"""

from __future__ import annotations

import threading
from collections import Counter as Tally
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from pacs_node import __version__
from pacs_node.config import Settings
from pacs_node.files import FileStore
from pacs_node.journal import audit, deliveries, processes, views
from pacs_node.journal.database import Database
from pacs_node.operate.problems import JOBS, VALIDATIONS, ProblemKind, problems, readiness
from pacs_node.records import (
    AuditEvent,
    AuditKind,
    DeliveryState,
    InstanceState,
    Outcome,
    RunningRole,
    StudyState,
)

STAGES = (AuditKind.ANALYZED, AuditKind.REPORTED, AuditKind.SENT, AuditKind.COMMITTED)
ANSWERS = ("0x0000", "0xBxxx", "0xA7xx", "0xA9xx", "0xCxxx", "0x0111", "other", "none")
ALARMS = (
    AuditKind.ANALYSIS_FAILED,
    AuditKind.REPORT_FAILED,
    AuditKind.STUDY_FAILED,
    AuditKind.FAILURE_REPORT_SUPPRESSED,
    AuditKind.UNREADABLE,
    AuditKind.DELIVERY_QUARANTINED,
    AuditKind.DELIVERY_STALLED,
    AuditKind.COMMITMENT_FAILED,
    AuditKind.CONTENT_CONFLICT,
    AuditKind.CLOCK_JUMPED,
    AuditKind.CALENDAR_FAILED,
    AuditKind.VALIDATION_ALARM,
)
"""Events counted from 0 on: Prometheus does not notice the first sample of a new series."""
_ATTENTION = {
    ProblemKind.QUARANTINED: "QUARANTINED",
    ProblemKind.STALLED: "STALLED",
    ProblemKind.NO_DESTINATION: "NO DESTINATION",
    ProblemKind.STUDY: "FAILED",
}
_ANSWERED = (
    AuditKind.SENT,
    AuditKind.DELIVERY_FAILED,
    AuditKind.DELIVERY_STALLED,
    AuditKind.DELIVERY_QUARANTINED,
)
_MODALITIES = {*("CR", "CT", "DX", "IO", "KO", "MG", "MR", "NM", "OT", "PR", "PT", "PX", "RF", "RG", "SC")}
_MODALITIES |= {"SEG", "SR", "US", "XA", "DOC", "ES", "XC"}
_SECONDS = (0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 4 * 3600, 24 * 3600)
_TENTHS = tuple(n / 10 for n in range(1, 11))


class NodeMetrics(Collector):
    """The node's metrics, in a registry of their own."""

    def __init__(self, settings: Settings, database: Database, files: FileStore) -> None:
        self._settings, self._database, self._files = settings, database, files
        self._destinations = [destination.name for destination in settings.destinations]
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._lock = threading.Lock()
        self._seq: int | None = None
        self._stats: dict[tuple[str, str, int], Mapping[str, float]] = {}
        self._received = _counter("received_objects", "Objects received, registered first", "modality")
        self._bytes = _counter("received_bytes", "Their bytes", "modality")
        self._analyses = _counter("analyses", "Analyzed images by result", "model", "result")
        self._reports = _counter("reports", "Reports made", "outcome")
        self._answers = _counter(
            "delivery_answers", "Answers of destinations to results", "destination", "status"
        )
        self._feedback = _counter("feedback", "Labels of users", "label")
        self._events = _counter("audit_events", "Events of the audit log", "event")
        self._associations = _counter("associations", "Associations requested by peers", "result")
        self._refusals = _counter("store_refusals", "C-STORE requests answered with a failure", "status")
        self._images = _counter("inference_images", "Images given to the model")
        self._inference = _counter("inference_seconds", "Time that the model took for them")
        stages = "Receipt to analysis, last image to report, report to sent, sent to committed"
        self._stages = Histogram(
            "pacsnode_stage_seconds", stages, ("stage",), registry=None, buckets=_SECONDS
        )
        self._probability = Histogram(
            "pacsnode_finding_probability",
            "The model's probabilities",
            ("model",),
            registry=None,
            buckets=_TENTHS,
        )
        for event in ALARMS:
            self._events.labels(event)
        for outcome in Outcome:
            self._reports.labels(outcome)
        for result in ("accepted", "rejected"):
            self._associations.labels(result)
        for stage in STAGES:
            self._stages.labels(stage)
        for name in self._destinations:
            for status in ANSWERS:
                self._answers.labels(name, status)

    def scrape(self, accept: str = "") -> tuple[bytes, str]:
        """The metrics as text and its content type, in the format that a client accepts.

        Raises JournalError if the journal cannot be read.
        """
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def collect(self) -> Iterator[Metric]:
        """All metrics as they are now."""
        with self._lock:
            running = processes.running(self._database)
            self._catch_up(running)
            yield from self._gauges(running)
            for counted in vars(self).values():
                if isinstance(counted, Counter | Histogram):
                    for metric in counted.collect():
                        metric.samples = [
                            sample for sample in metric.samples if not sample.name.endswith("_created")
                        ]
                        yield metric

    def _catch_up(self, running: Iterable[RunningRole]) -> None:
        """Count everything since the last scrape."""
        is_first = self._seq is None
        if self._seq is None:
            self._seq = audit.head(self._database)[0]
        for event, seconds in audit.timed_events(self._database, self._seq):
            self._count(event, seconds)
            self._seq = event.seq
        before, self._stats = self._stats, {}
        for role in running:
            key = (role.role, role.host, role.pid)
            self._stats[key] = role.stats
            # What a process counted before the first scrape is not counted here.
            old = role.stats if is_first else before.get(key, {})
            for name, value in role.stats.items():
                more = max(0.0, value - old.get(name, 0.0))
                if name in ("associations_accepted", "associations_rejected"):
                    self._associations.labels(name.removeprefix("associations_")).inc(more)
                elif name.startswith("refused_"):
                    self._refusals.labels(name.removeprefix("refused_")).inc(more)
                elif name == "inference_images":
                    self._images.inc(more)
                elif name == "inference_seconds":
                    self._inference.inc(more)

    def _count(self, event: AuditEvent, seconds: float | None) -> None:
        kind, details = event.event, event.details
        self._events.labels(kind).inc()
        if seconds is not None:
            self._stages.labels(kind).observe(seconds)
        if kind == AuditKind.RECEIVED:
            modality = details.get("modality") if details.get("modality") in _MODALITIES else "other"
            self._received.labels(modality).inc()
            self._bytes.labels(modality).inc(details["size"])
        elif kind == AuditKind.ANALYZED:
            self._analyses.labels(details["model"], "positive" if details["positive"] else "negative").inc()
            self._probability.labels(details["model"]).observe(details["probability"])
        elif kind in (AuditKind.ANALYSIS_FAILED, AuditKind.ANALYSIS_SKIPPED):
            # The image was refused by the model's scope guard, or for its body part.
            is_outside = kind == AuditKind.ANALYSIS_SKIPPED or "scope" in details
            self._analyses.labels(details["model"], "out_of_scope" if is_outside else "failed").inc()
        elif kind == AuditKind.REPORTED:
            self._reports.labels(details["outcome"]).inc()
        elif kind in _ANSWERED:
            status = status_group(details["status"])
            # STOW-RS has failure reasons in the range of the C-STORE warnings.
            is_warning = status == "0xBxxx" and kind != AuditKind.SENT
            self._answers.labels(details["destination"], "other" if is_warning else status).inc()
        elif kind == AuditKind.FEEDBACK:
            self._feedback.labels(details["label"]).inc()

    def _gauges(self, running: list[RunningRole]) -> Iterator[Metric]:
        database, names = self._database, self._destinations
        queues, now = views.queues(database), database.clock()
        yield InfoMetricFamily("pacsnode_build", "The running version", {"version": __version__})
        blocking = any(readiness(self._settings, database, self._files))
        yield _gauge("ready", "1 if every role is ready and there is room", float(not blocking))
        zero = dict.fromkeys(processes.ROLES, 0)
        live, ready = (Tally(role.role for role in running if role.ready or any_) for any_ in (True, False))
        yield _gauge("role_processes", "Running processes", zero | live, "role")
        yield _gauge("role_ready", "Those that are ready", zero | ready, "role")
        zero = dict.fromkeys(map(str, InstanceState), 0)
        yield _gauge("instances", "Received objects in each state", zero | queues.instances, "state")
        zero = dict.fromkeys(map(str, StudyState), 0)
        yield _gauge("studies", "Studies in each state", zero | queues.studies, "state")
        pairs = {(name, str(state)): 0 for name in names for state in DeliveryState}
        yield _gauge("deliveries", "Results in each state", pairs | queues.deliveries, "destination", "state")
        ages = {name: now - queues.due.get(name, now) for name in ("instances", "studies")}
        yield _gauge("queue_age_seconds", "How long the oldest is due for a worker", ages, "queue")
        ages = {name: now - at for name, at in (dict.fromkeys(names, now) | queues.outbox).items()}
        yield _gauge("outbox_age_seconds", "Age of the oldest result not yet sent", ages, "destination")
        attention = dict.fromkeys(_ATTENTION.values(), 0)
        for problem in problems(self._settings, database, self._files):
            if problem.kind in _ATTENTION:
                attention[_ATTENTION[problem.kind]] += problem.count
        yield _gauge("attention", "Results and studies that need action", attention, "trouble")
        stats = [role.stats for role in running]
        opened = sum(each.get("associations_open", 0) for each in stats)
        yield _gauge("associations_open", "Open associations of peers", opened)
        loads = [each["model_load_seconds"] for each in stats if "model_load_seconds" in each]
        loaded = {(): max(loads)} if loads else {}
        yield _gauge("model_load_seconds", "Time that the slowest worker took to load the model", loaded)
        memory = {
            kind: max(each.get(f"gpu_{kind}_bytes", 0) for each in stats)
            for kind in ("used", "peak", "total")
            if any(f"gpu_{kind}_bytes" in each for each in stats)
        }
        yield _gauge("gpu_memory_bytes", "Of the worker that uses most; none without a GPU", memory, "kind")
        yield from self._of_jobs()
        yield _gauge("disk_free_bytes", "Free space for the storage", self._files.free_gb() * 1e9)
        reserve = self._settings.storage.min_free_gb * 1e9
        yield _gauge("disk_reserve_bytes", "`min_free_gb`: below it nothing is received", reserve)

    def _of_jobs(self) -> Iterator[Metric]:
        kinds = {AuditKind.of_job(job): job for job in JOBS}
        runs = audit.newest(self._database, list(kinds))
        times = {kinds[AuditKind(event.event)]: event.at for event in runs}
        what = "When a job of [schedule] last succeeded"
        # Not "job": that label is Prometheus's own.
        yield _gauge("task_last_success_timestamp_seconds", what, times, "task")
        reach = {name: deliveries.reach(self._database, name) for name in self._destinations}
        up = {
            name: float(event is None or event.event == AuditKind.DESTINATION_REACHABLE)
            for name, event in reach.items()
            if event or "echo" in times
        }
        yield _gauge("destination_up", "1 if it could be reached when last tried", up, "destination")
        last = audit.last(self._database, *VALIDATIONS)
        alarm = {(): float(last.event == AuditKind.VALIDATION_ALARM)} if last else {}
        yield _gauge("validation_alarm", "1 if the last validation was an alarm", alarm)
        figures: dict[tuple[str, ...], float] = {}
        for check in last.details["checks"] if last else ():
            if check["value"] is not None:
                # One figure for all stations, the worst: peers choose their names.
                where = "stations" if check["where"].startswith("station ") else check["where"]
                key = (check["model"], check["what"], where)
                figures[key] = max(check["value"], figures.get(key, 0.0))
        what = "Sensitivity, specificity and the worst station's drift of the last validation"
        yield _gauge("validation_value", what, figures, "model", "what", "where")


def _counter(name: str, what: str, *labels: str) -> Counter:
    return Counter(f"pacsnode_{name}", what, labels, registry=None)


def _gauge(name: str, what: str, values: float | Mapping[Any, float], *labels: str) -> GaugeMetricFamily:
    """A gauge with a value for each label or tuple of labels, or with a single value."""
    family = GaugeMetricFamily(f"pacsnode_{name}", what, labels=labels)
    for key, value in values.items() if isinstance(values, Mapping) else [((), values)]:
        family.add_metric(key if isinstance(key, tuple) else (key,), value)
    return family


def status_group(status: str | None) -> str:
    """The status of an answer as one of `ANSWERS`."""
    if status is None:
        return "none"
    groups = (status, f"{status[:4]}xx", f"{status[:3]}xxx")
    return next((group for group in groups if group in ANSWERS), "other")
