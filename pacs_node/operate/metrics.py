"""What Prometheus reads: figures of the whole node, taken from the journal at each scrape; no patient data.

Counters and histograms count from the start of the process that answers, as Prometheus expects; gauges say
how it is now. What only a process knows comes from its heartbeat.
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
from pacs_node.config import ScheduleSettings, Settings
from pacs_node.files import FileStore
from pacs_node.journal import audit, processes, views
from pacs_node.journal.database import Database
from pacs_node.operate import checks
from pacs_node.operate.validation import Verdict
from pacs_node.records import (
    AuditEvent,
    AuditKind,
    DeliveryState,
    InstanceState,
    Outcome,
    RunningRole,
    StudyState,
)

JOBS = tuple(ScheduleSettings.model_fields)
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
"""Events that are counted from 0 on: Prometheus takes no notice of the first of a series that is new."""
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


class Metrics(Collector):
    """The node's metrics, in a registry of their own."""

    def __init__(self, settings: Settings, database: Database, files: FileStore) -> None:
        self._settings = settings
        self._database = database
        self._files = files
        self._destinations = [destination.name for destination in settings.destinations]
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._lock = threading.Lock()
        self._seq: int | None = None
        self._newest: dict[str, AuditEvent] = {}
        self._told: dict[tuple[str, str, int], Mapping[str, float]] = {}
        self._received = _counter("received_objects", "Objects received, registered first", "modality")
        self._bytes = _counter("received_bytes", "Their bytes", "modality")
        self._analyses = _counter("analyses", "Images analyzed, by what came of them", "model", "result")
        self._reports = _counter("reports", "Reports made", "outcome")
        self._answers = _counter(
            "delivery_answers", "What destinations answered to results", "destination", "status"
        )
        self._feedback = _counter("feedback", "Labels that came back", "label")
        self._events = _counter("audit_events", "Events of the audit log", "event")
        self._associations = _counter("associations", "Associations asked for by peers", "result")
        self._refusals = _counter("store_refusals", "C-STORE requests answered with a failure", "status")
        self._images = _counter("inference_images", "Images given to the model")
        self._inference = _counter("inference_seconds", "Time that the model took for them")
        self._stages = Histogram(
            "pacsnode_stage_seconds",
            "Receipt to analysis, last image to report, report to sent, sent to committed",
            ("stage",),
            registry=None,
            buckets=_SECONDS,
        )
        self._probability = Histogram(
            "pacsnode_finding_probability",
            "What the model said of images",
            ("model",),
            registry=None,
            buckets=_TENTHS,
        )
        self._start_at_zero()

    def scrape(self, accept: str = "") -> tuple[bytes, str]:
        """The metrics as text, and its content type, in the format that a client accepts.

        Raises JournalError where the journal cannot be read.
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
                        metric.samples = [one for one in metric.samples if not one.name.endswith("_created")]
                        yield metric

    def _start_at_zero(self) -> None:
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

    def _catch_up(self, running: Iterable[RunningRole]) -> None:
        """Count what happened since the last scrape."""
        is_first = self._seq is None
        if self._seq is None:
            seq = audit.head(self._database)[0]
            verdicts = [AuditKind(f"validation_{verdict}") for verdict in Verdict]
            names = [*map(AuditKind.of_job, JOBS), *verdicts]
            self._newest = {one.event: one for one in audit.newest(self._database, names)}
            self._seq = seq
        for event, seconds in audit.timed_events(self._database, self._seq):
            self._count(event, seconds)
            self._seq = event.seq
        before, self._told = self._told, {}
        for role in running:
            key = (role.role, role.host, role.pid)
            self._told[key] = role.stats
            # What a process counted before we began is not ours to tell.
            self._count_of_process(role.stats, role.stats if is_first else before.get(key, {}))

    def _count(self, event: AuditEvent, seconds: float | None) -> None:
        name, told = event.event, event.details
        self._events.labels(name).inc()
        if seconds is not None:
            self._stages.labels(name).observe(seconds)
        if name.startswith(("calendar_", "validation_")):
            self._newest[name] = event
        elif name == AuditKind.RECEIVED:
            modality = told.get("modality") if told.get("modality") in _MODALITIES else "other"
            self._received.labels(modality).inc()
            self._bytes.labels(modality).inc(told["size"])
        elif name == AuditKind.ANALYZED:
            self._analyses.labels(told["model"], "positive" if told["positive"] else "negative").inc()
            self._probability.labels(told["model"]).observe(told["probability"])
        elif name in (AuditKind.ANALYSIS_FAILED, AuditKind.ANALYSIS_SKIPPED):
            # The model judged the image before it was refused, or its body part was refused.
            is_outside = name == AuditKind.ANALYSIS_SKIPPED or "scope" in told
            self._analyses.labels(told["model"], "out_of_scope" if is_outside else "failed").inc()
        elif name == AuditKind.REPORTED:
            self._reports.labels(told["outcome"]).inc()
        elif name in _ANSWERED:
            status = _answer(told["status"])
            # STOW-RS has failure reasons where C-STORE has warnings.
            is_warning = status == "0xBxxx" and name != AuditKind.SENT
            self._answers.labels(told["destination"], "other" if is_warning else status).inc()
        elif name == AuditKind.FEEDBACK:
            self._feedback.labels(told["label"]).inc()

    def _count_of_process(self, now: Mapping[str, float], before: Mapping[str, float]) -> None:
        for name, value in now.items():
            more = max(0.0, value - before.get(name, 0.0))
            if name in ("associations_accepted", "associations_rejected"):
                self._associations.labels(name.removeprefix("associations_")).inc(more)
            elif name.startswith("refused_"):
                self._refusals.labels(name.removeprefix("refused_")).inc(more)
            elif name == "inference_images":
                self._images.inc(more)
            elif name == "inference_seconds":
                self._inference.inc(more)

    def _gauges(self, running: list[RunningRole]) -> Iterator[Metric]:
        database, names = self._database, self._destinations
        queues, now = views.queues(database), database.clock()
        yield InfoMetricFamily("pacsnode_build", "What runs", {"version": __version__})
        lacking = checks.lacking(self._settings, database, self._files)
        yield _gauge("ready", "1 where every role is ready and there is room", float(not lacking))
        live = Tally(one.role for one in running)
        ready = Tally(one.role for one in running if one.ready)
        of_all = dict.fromkeys(processes.ROLES, 0)
        yield _gauge("role_processes", "Running processes", of_all | live, "role")
        yield _gauge("role_ready", "Those that are ready", of_all | ready, "role")
        of_all = dict.fromkeys(map(str, InstanceState), 0)
        yield _gauge("instances", "Received objects in each state", of_all | queues.instances, "state")
        of_all = dict.fromkeys(map(str, StudyState), 0)
        yield _gauge("studies", "Studies in each state", of_all | queues.studies, "state")
        zero = {(name, str(state)): 0 for name in names for state in DeliveryState}
        yield _gauge("deliveries", "Results in each state", zero | queues.deliveries, "destination", "state")
        ages = {name: now - queues.due.get(name, now) for name in ("instances", "studies")}
        yield _gauge("queue_age_seconds", "How long the oldest is due for a worker", ages, "queue")
        ages = {name: now - at for name, at in (dict.fromkeys(names, now) | queues.outbox).items()}
        yield _gauge("outbox_age_seconds", "Age of the oldest result not yet sent", ages, "destination")
        trouble = dict.fromkeys(("QUARANTINED", "STALLED", "NO DESTINATION"), 0)
        trouble |= views.stuck_counts(database, names)
        yield _gauge("attention", "Deliveries that need somebody", trouble, "trouble")
        yield from self._of_processes(running)
        yield from self._of_jobs()
        yield _gauge("disk_free_bytes", "Free space for the storage", self._files.free_gb() * 1e9)
        reserve = self._settings.storage.min_free_gb * 1e9
        yield _gauge("disk_reserve_bytes", "`min_free_gb`: below it nothing is received", reserve)

    def _of_processes(self, running: Iterable[RunningRole]) -> Iterator[Metric]:
        stats = [role.stats for role in running]
        opened = sum(one.get("associations_open", 0) for one in stats)
        yield _gauge("associations_open", "Associations of peers that are open", opened)
        loads = [one["model_load_seconds"] for one in stats if "model_load_seconds" in one]
        loaded = {(): max(loads)} if loads else {}
        yield _gauge("model_load_seconds", "Time that the slowest worker took to load the model", loaded)
        memory = {
            kind: max(one.get(f"gpu_{kind}_bytes", 0) for one in stats)
            for kind in ("used", "peak", "total")
            if any(f"gpu_{kind}_bytes" in one for one in stats)
        }
        yield _gauge("gpu_memory_bytes", "Of the worker that uses most; none without a GPU", memory, "kind")

    def _of_jobs(self) -> Iterator[Metric]:
        jobs = {job: event for job in JOBS if (event := self._newest.get(AuditKind.of_job(job)))}
        done = {job: event.at for job, event in jobs.items()}
        # Not "job": that label is Prometheus's own.
        yield _gauge(
            "task_last_success_timestamp_seconds", "When a job of [schedule] last succeeded", done, "task"
        )
        unreachable = jobs["echo"].details["unreachable"] if "echo" in jobs else {}
        up = {name: float(name not in unreachable) for name in self._destinations if "echo" in jobs}
        yield _gauge("destination_up", "1 where it answered the schedule's last C-ECHO", up, "destination")
        judged = [event for name, event in self._newest.items() if name.startswith("validation_")]
        last = max(judged, key=lambda event: event.seq, default=None)
        alarm = {(): float(last.event == AuditKind.VALIDATION_ALARM)} if last else {}
        yield _gauge("validation_alarm", "1 where the last validation was an alarm", alarm)
        figures: dict[tuple[str, ...], float] = {}
        for check in last.details["checks"] if last else ():
            if check["value"] is not None:
                # One figure for all stations, the worst: their names are others' to choose.
                where = "stations" if check["where"].startswith("station ") else check["where"]
                key = (check["model"], check["what"], where)
                figures[key] = max(check["value"], figures.get(key, 0.0))
        what = "Sensitivity, specificity and the worst station's drift, as the last validation found them"
        yield _gauge("validation_value", what, figures, "model", "what", "where")


def _counter(name: str, what: str, *labels: str) -> Counter:
    return Counter(f"pacsnode_{name}", what, labels, registry=None)


def _gauge(name: str, what: str, values: float | Mapping[Any, float], *labels: str) -> GaugeMetricFamily:
    """A gauge with a value for each label, or tuple of them; or with one, or none, alone."""
    family = GaugeMetricFamily(f"pacsnode_{name}", what, labels=labels)
    for key, value in values.items() if isinstance(values, Mapping) else [((), values)]:
        family.add_metric(key if isinstance(key, tuple) else (key,), value)
    return family


def _answer(status: str | None) -> str:
    """The status of an answer as one of `ANSWERS`."""
    if status is None:
        return "none"
    groups = (status, f"{status[:4]}xx", f"{status[:3]}xxx")
    return next((group for group in groups if group in ANSWERS), "other")
