"""Role `worker`: claims images and studies, runs the pipeline on them and records the results."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Protocol

import structlog
from structlog.contextvars import bind_contextvars

from pacs_node import pipeline
from pacs_node.config import Settings
from pacs_node.dicom import reading
from pacs_node.errors import PacsNodeError
from pacs_node.journal import deliveries, instances, queue, studies
from pacs_node.node import Node
from pacs_node.records import (
    Analysis,
    AuditKind,
    Instance,
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
"""A worker that is busy with a claim for this long hangs: it exits, and the attempt counts."""

_log = structlog.get_logger(__name__)


def run(
    settings: Settings, stop: threading.Event, classifier: Callable[[Settings], pipeline.Predictor]
) -> None:
    """The role that analyzes images and reports studies."""
    node = Node.open(settings)
    with Heartbeat(node.database, "worker", HANG_SECONDS) as heartbeat:
        began = time.monotonic()
        model = classifier(settings)
        loading = {"model_load_seconds": round(time.monotonic() - began, 3)}
        heartbeat.stats = lambda: {**loading, **model.stats()}
        work = Worker(node, model, heartbeat)
        heartbeat.ready(model.identity.id)
        while not stop.is_set():
            work_off(stop, "worker", work.step)
            stop.wait(lifecycle.POLL_SECONDS)


def served_classifier(settings: Settings) -> pipeline.Predictor:
    """The classifier of the model package in the settings."""
    from pacs_node.analyze import package
    from pacs_node.analyze.classifier import Classifier

    model = settings.model
    return Classifier(package.load(model.path), model.device, model.threshold, model.batch, model.scope_limit)


class Leases(Protocol):
    """Keeps the lease of a claim alive while it is worked on."""

    def hold(self, token: str) -> AbstractContextManager[None]:
        """Renew this lease until the block is left."""
        ...


class Worker:
    """Analyzes images and reports studies, one claim at a time."""

    def __init__(
        self,
        node: Node,
        classifier: pipeline.Predictor,
        leases: Leases,
    ) -> None:
        self._node = node
        self._classifier = classifier
        self._leases = leases

    def step(self) -> bool:
        """Do one piece of work; False if nothing was due.

        Studies come before images: their reports are awaited, and images may keep coming.
        """
        return self._report() or self._analyze()

    def _analyze(self) -> bool:
        claim = instances.claim_instances(self._node.database, self._node.settings.model.batch)
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
            except Exception as error:  # noqa: BLE001 - an image must not end the worker; it comes back alone
                uids = sorted({instance.study_instance_uid for instance in todo})
                _log.exception(
                    "analysis_error", study_instance_uid=uids, instances=[instance.id for instance in todo]
                )
                instances.postpone_instances(
                    self._node.database, claim, RETRY_SECONDS, _reason(error), counts=not _is_disk(error)
                )
                return True
            instances.finish_instances(
                self._node.database, claim.token, self._classifier.identity, analyses + hopeless
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
        """Analyze images; an image whose content was analyzed before keeps that finding."""
        before = instances.versions_before(self._node.database, todo)
        uids = [instance.sop_instance_uid for instance in todo if instance.id in before]
        known = instances.known_findings(self._node.database, uids, self._classifier.identity) if uids else {}
        analyses = pipeline.analyze_instances(todo, self._node.files.path, self._classifier, known)
        return [
            replace(analysis, changed=self._changed(analysis.instance, before[analysis.instance.id]))
            if analysis.finding and analysis.instance.id in before
            else analysis
            for analysis in analyses
        ]

    def _changed(self, instance: Instance, before: Instance) -> tuple[str, ...]:
        """Keywords of patient, study and file attributes in which a version differs from the one before."""
        headers = (reading.header(self._node.files.path(version.sha256)) for version in (instance, before))
        syntax = instance.transfer_syntax_uid == before.transfer_syntax_uid
        return source.mismatches(headers) + (() if syntax else ("TransferSyntaxUID",))

    def _report(self) -> bool:
        claim = studies.claim_study(self._node.database)
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
            except Exception as error:  # noqa: BLE001 - a study must not end the worker
                _log.exception("report_error")
                counts = not _is_disk(error)
                if study.attempts < MAX_ATTEMPTS or not counts:
                    studies.postpone_study(
                        self._node.database, claim, RETRY_SECONDS, _reason(error), counts=counts
                    )
                else:
                    self._give_up(claim.token, study, _given_up(_reason(error)))
        return True

    def _give_up(self, token: str, study: Study, why: str) -> None:
        """Report that the study could not be reported; if that fails too, only record it."""
        if study.attempts <= MAX_ATTEMPTS + 1:
            try:
                self._report_study(token, study, why)
                return
            except Exception:  # noqa: BLE001 - a study must not end the worker
                _log.exception("failure_report_error")
        self._close(token, study, StudyState.FAILED, why, AuditKind.REPORT_FAILED)

    def _report_study(self, token: str, study: Study, failure: str | None = None) -> None:
        """Report a study; with `failure`, report that this made its report impossible."""
        node, model = self._node, self._classifier.identity
        every = studies.study_instances(node.database, study.study_instance_uid)
        findings = studies.findings(node.database, every, model)
        basis = pipeline.report_basis(every, findings, node.files.path, failure)
        if basis.stale:
            instances.reopen_instances(node.database, basis.stale, "another model is served now")
            studies.release_study(node.database, token, study)
            return
        if basis.refusal:
            skipped = basis.state is StudyState.SKIPPED
            kind = AuditKind.STUDY_SKIPPED if skipped else AuditKind.STUDY_FAILED
            self._close(token, study, basis.state, basis.refusal, kind)
            return
        earlier_key, earlier_outcome, predecessor = studies.last_report(node.database, study) or (None,) * 3
        request = ReportRequest(
            node=node.identity,
            model=model,
            study_instance_uid=study.study_instance_uid,
            revision=study.revision,
            created_at=node.database.clock(),
            images=basis.images,
            predecessor=predecessor,
            renewed=study.renewed,
            missing_images=studies.count_missing_images(node.database, study.id),
        )
        inputs_key = pipeline.inputs_key(request)
        if inputs_key == earlier_key:
            self._close(token, study, StudyState.REPORTED, basis.failure, AuditKind.REPORT_UNCHANGED)
            return
        if basis.failure:
            since = request.created_at - FAILURE_WINDOW_SECONDS
            same = studies.count_failure_reports(node.database, basis.failure, since)
            if pipeline.is_silent(failure is not None, earlier_outcome, same, node.settings.report):
                kind = AuditKind.FAILURE_REPORT_SUPPRESSED
                self._close(token, study, StudyState.FAILED, basis.failure, kind)
                return
        known = studies.result_uids(node.database, study)
        made = pipeline.report_study(request, node.files, node.settings.report, known)
        report = studies.StudyReport(
            revision=study.revision,
            inputs_key=inputs_key,
            model=model,
            outcome=made.outcome,
            summary=made.summary,
            created_at=request.created_at,
            results=made.results,
            mismatches=made.mismatches,
            kept=made.kept,
            reason=basis.failure,
        )
        senders = {image.instance.calling_ae_title for image in basis.images}
        informed = deliveries.informed(node.database, study)
        routes = node.settings.routes(senders, made.outcome, informed)
        if studies.finish_report(node.database, token, study, report, routes):
            _log.info("reported", outcome=str(made.outcome))

    def _close(
        self, token: str, study: Study, state: StudyState, reason: str | None, event: AuditKind
    ) -> None:
        studies.close_study(self._node.database, token, study, state, reason, event)
        _log.info(event, reason=reason)


def _given_up(why: str | None) -> str:
    return f"given up after {MAX_ATTEMPTS} attempts: {why or 'the worker died'}"


def _reason(error: Exception) -> str:
    """An error for the journal: its message if it is the node's own, else its type, for it may quote data."""
    return str(error) if isinstance(error, PacsNodeError) else f"unexpected {type(error).__name__}"


def _is_disk(error: Exception) -> bool:
    """Whether the disk is full or away: then the work is tried again without end."""
    return reading.is_disk(error) and not isinstance(error, FileNotFoundError)
