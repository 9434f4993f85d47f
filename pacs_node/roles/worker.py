"""Claims work from the journal, runs the pipeline on it and records what came of it."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Protocol

import structlog
from structlog.contextvars import bind_contextvars

from pacs_node import pipeline
from pacs_node.config import Settings
from pacs_node.dicom import reading
from pacs_node.errors import PacsNodeError
from pacs_node.files import FileStore
from pacs_node.journal import deliveries, instances, queue, studies
from pacs_node.journal.database import Database, open_database
from pacs_node.records import (
    Analysis,
    AuditKind,
    Finding,
    Instance,
    InstanceState,
    NodeIdentity,
    Outcome,
    Predecessor,
    ReportRequest,
    Study,
    StudyState,
)
from pacs_node.report import source
from pacs_node.roles import lifecycle
from pacs_node.roles.lifecycle import Heartbeat, work_off

MAX_ATTEMPTS = queue.MAX_ATTEMPTS
RETRY_SECONDS = 10.0
FAILURE_WINDOW_SECONDS = 3600.0
HANG_SECONDS = 300.0
"""A worker busy with one claim for this long hangs: it ends itself, and the attempt has counted."""

_log = structlog.get_logger(__name__)


def run(
    settings: Settings, stop: threading.Event, classifier: Callable[[Settings], pipeline.Classifier]
) -> None:
    """The role that analyzes images and reports studies."""
    database = open_database(settings.database_url)
    node = database.identity(settings.node.ae_title)
    files = FileStore(settings.storage.path)
    with Heartbeat(database, "worker", HANG_SECONDS) as heartbeat:
        began = time.monotonic()
        model = classifier(settings)
        loading = {"model_load_seconds": round(time.monotonic() - began, 3)}
        heartbeat.stats = lambda: {**loading, **model.stats()}
        work = Worker(settings, database, files, node, model, heartbeat)
        heartbeat.ready(model.identity.id)
        while not stop.is_set():
            work_off(stop, "worker", work.step)
            stop.wait(lifecycle.POLL_SECONDS)


def served_classifier(settings: Settings) -> pipeline.Classifier:
    """The classifier of the model package in the settings."""
    from pacs_node.analyze import package
    from pacs_node.analyze.classifier import Classifier as Network

    model = settings.model
    return Network(package.load(model.path), model.device, model.threshold, model.batch, model.scope_limit)


class Leases(Protocol):
    """Keeps the lease of a claim alive while it is worked on."""

    def hold(self, token: str) -> AbstractContextManager[None]:
        """Renew this lease until the block is left."""
        ...


class Worker:
    """Analyzes images and reports studies, one claim at a time."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        files: FileStore,
        node: NodeIdentity,
        classifier: pipeline.Classifier,
        leases: Leases,
    ) -> None:
        self._settings = settings
        self._database = database
        self._files = files
        self._node = node
        self._classifier = classifier
        self._leases = leases

    def step(self) -> bool:
        """Do one piece of work; False where nothing was due.

        Studies come before images: their answer is awaited, and images may keep coming without an end.
        """
        return self._report() or self._analyze()

    def _analyze(self) -> bool:
        claim = instances.claim_instances(self._database, self._settings.model.batch)
        if claim is None:
            return False
        with self._leases.hold(claim.token):
            hopeless = [
                Analysis(instance, None, _given_up(instance.reason))
                for instance in claim.items
                if instance.attempts > MAX_ATTEMPTS
            ]
            todo = [instance for instance in claim.items if instance.attempts <= MAX_ATTEMPTS]
            try:
                analyses = self._analyze_instances(todo)
            except Exception as error:  # noqa: BLE001 - one image must not end the worker; it comes back alone
                uids = sorted({instance.study_instance_uid for instance in todo})
                _log.exception(
                    "analysis_error", study_instance_uid=uids, instances=[instance.id for instance in todo]
                )
                instances.postpone_instances(
                    self._database, claim, RETRY_SECONDS, _why(error), counts=not _is_disk(error)
                )
                return True
            instances.finish_instances(
                self._database, claim.token, self._classifier.identity, analyses + hopeless
            )
        for analysis in analyses + hopeless:
            _log.info(
                "analyzed",
                study_instance_uid=analysis.instance.study_instance_uid,
                sop_instance_uid=analysis.instance.sop_instance_uid,
                probability=analysis.finding.probability if analysis.finding else None,
                failure=analysis.failure,
            )
        return True

    def _analyze_instances(self, todo: Sequence[Instance]) -> list[Analysis]:
        """Analyze images; one whose content the model has spoken of before keeps what it said."""
        before = instances.versions_before(self._database, todo)
        uids = [instance.sop_instance_uid for instance in todo if instance.id in before]
        known = instances.known_findings(self._database, uids, self._classifier.identity) if uids else {}
        analyses = pipeline.analyze_instances(todo, self._files.path, self._classifier, known)
        return [
            replace(analysis, changed=self._changed(analysis.instance, before[analysis.instance.id]))
            if analysis.finding and analysis.instance.id in before
            else analysis
            for analysis in analyses
        ]

    def _changed(self, instance: Instance, before: Instance) -> tuple[str, ...]:
        """Keywords of patient, study and file attributes in which a version differs from the one before."""
        headers = (reading.header(self._files.path(one.sha256)) for one in (instance, before))
        syntax = instance.transfer_syntax_uid == before.transfer_syntax_uid
        return source.mismatches(headers) + (() if syntax else ("TransferSyntaxUID",))

    def _report(self) -> bool:
        claim = studies.claim_study(self._database)
        if claim is None:
            return False
        (study,) = claim.items
        bind_contextvars(study_instance_uid=study.study_instance_uid)
        with self._leases.hold(claim.token):
            if study.attempts > MAX_ATTEMPTS:
                self._give_up(claim.token, study, _given_up(study.reason))
                return True
            try:
                self._report_study(claim.token, study)
            except Exception as error:  # noqa: BLE001 - one study must not end the worker
                _log.exception("report_error")
                counts = not _is_disk(error)
                if study.attempts < MAX_ATTEMPTS or not counts:
                    studies.postpone_study(self._database, claim, RETRY_SECONDS, _why(error), counts=counts)
                else:
                    self._give_up(claim.token, study, _given_up(_why(error)))
        return True

    def _give_up(self, token: str, study: Study, why: str) -> None:
        """Say in a report that there is none; in the journal alone where making that one failed, too."""
        if study.attempts <= MAX_ATTEMPTS + 1:
            try:
                self._report_study(token, study, why)
                return
            except Exception:  # noqa: BLE001 - one study must not end the worker
                _log.exception("failure_report_error")
        self._close(token, study, StudyState.FAILED, why, AuditKind.REPORT_FAILED)

    def _report_study(self, token: str, study: Study, failure: str | None = None) -> None:
        """Report a study, or that it could not be reported: then of every image that `failure` is why."""
        every = studies.study_instances(self._database, study.study_instance_uid)
        skipped = [instance for instance in every if instance.state == InstanceState.SKIPPED]
        tried = [instance for instance in every if instance.state != InstanceState.SKIPPED]
        found = studies.findings(self._database, tried, self._classifier.identity)
        if failure:
            tried = [replace(one, state=InstanceState.FAILED, reason=failure) for one in tried]
            found = {}
        stale = [i for i in tried if i.state == InstanceState.ANALYZED and i.id not in found]
        if stale:
            # The model or its threshold changed since: these images are analyzed again first.
            instances.reopen_instances(self._database, stale, "another model is served now")
            studies.release_study(self._database, token, study)
            return
        images = pipeline.images_to_report([*tried, *skipped], found, self._files.path)
        relevant = [image.instance for image in images]
        if not relevant:
            reasons = Counter(instance.reason for instance in every)
            reason = "; ".join(f"{count} x {why}" for why, count in sorted(reasons.items(), key=str))
            self._close(
                token, study, StudyState.SKIPPED, f"nothing to analyze: {reason}", AuditKind.STUDY_SKIPPED
            )
            return
        if len({instance.patient_id for instance in relevant}) > 1:
            reason = "identity conflict: the study's images name more than one PatientID"
            self._close(token, study, StudyState.FAILED, reason, AuditKind.STUDY_FAILED)
            return
        previous = studies.last_report(self._database, study)
        why = None if found else "; ".join(sorted({str(instance.reason) for instance in relevant}))
        renewed = f" renewed {study.renewed}" if study.renewed else ""
        missing = studies.count_missing_images(self._database, study.id)
        incomplete = f" without {missing}" if missing else ""
        inputs_key = _inputs_key(self._classifier.identity.key + renewed + incomplete, relevant, found)
        if previous and previous[0] == inputs_key:
            self._close(token, study, StudyState.REPORTED, why, AuditKind.REPORT_UNCHANGED)
            return
        if why and self._is_to_be_silent(why, failure, previous):
            self._close(token, study, StudyState.FAILED, why, AuditKind.FAILURE_REPORT_SUPPRESSED)
            return
        request = ReportRequest(
            node=self._node,
            model=self._classifier.identity,
            study_instance_uid=study.study_instance_uid,
            revision=study.revision,
            created_at=self._database.clock(),
            images=images,
            predecessor=None if previous is None else previous[2],
            renewed=study.renewed,
            missing_images=missing,
        )
        known = studies.result_uids(self._database, study)
        made = pipeline.report_study(request, self._files, self._settings.report, known)
        report = studies.StudyReport(
            revision=study.revision,
            inputs_key=inputs_key,
            model=request.model,
            outcome=made.outcome,
            summary=made.summary,
            created_at=request.created_at,
            results=made.results,
            mismatches=made.mismatches,
            kept=made.kept,
            reason=why,
        )
        senders = {instance.calling_ae_title for instance in relevant}
        routes = self._settings.routes(senders, made.outcome, deliveries.informed(self._database, study))
        if studies.finish_report(self._database, token, study, report, routes):
            _log.info("reported", outcome=str(made.outcome))

    def _is_to_be_silent(
        self, reason: str, failure: str | None, previous: tuple[str, Outcome, Predecessor] | None
    ) -> bool:
        """Whether a report that says nothing but why is not to be sent.

        Where only its making failed, an earlier report that says something must not be replaced by it.
        """
        if failure and previous and previous[1] is not Outcome.FAILED:
            return True
        since = self._database.clock() - FAILURE_WINDOW_SECONDS
        said = studies.count_failure_reports(self._database, reason, since)
        return said >= self._settings.report.failures_per_hour

    def _close(
        self, token: str, study: Study, state: StudyState, reason: str | None, event: AuditKind
    ) -> None:
        studies.close_study(self._database, token, study, state, reason, event)
        _log.info(event, reason=reason)


def _inputs_key(model_key: str, relevant: Sequence[Instance], found: Mapping[int, Finding]) -> str:
    """What a report says follows from this: the model and, for each image, its content or why it failed."""
    said = sorted(
        (
            instance.sop_instance_uid,
            found[instance.id].content_key if instance.id in found else instance.reason,
        )
        for instance in relevant
    )
    return hashlib.sha256(json.dumps([model_key, said]).encode()).hexdigest()


def _given_up(why: str | None) -> str:
    return f"given up after {MAX_ATTEMPTS} attempts: {why or 'the worker died'}"


def _why(error: Exception) -> str:
    """An error for the journal: ours with its words, any other by its kind, since it may quote the data."""
    return str(error) if isinstance(error, PacsNodeError) else f"unexpected {type(error).__name__}"


def _is_disk(error: Exception) -> bool:
    """Whether the disk, full or away, is to blame and not the study: there is no end to trying again then."""
    return reading.is_disk(error) and not isinstance(error, FileNotFoundError)
