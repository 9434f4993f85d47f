"""Periodic validation: what came back as labels against what was said, and drift at each station."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TypeVar

import numpy as np
from scipy.stats import binomtest, ks_2samp

from pacs_node.config import ValidationSettings
from pacs_node.journal import audit, feedback, views
from pacs_node.journal.database import Database
from pacs_node.journal.feedback import Label, Recorded
from pacs_node.records import AuditEvent, AuditKind

DAY = 86_400.0
CHANCE = 0.001
"""p-value above which a change of distribution is put down to chance."""

T = TypeVar("T")
K = TypeVar("K")


class Verdict(StrEnum):
    """What a check found; the name of the audit event of a validation ends in the worst of its checks'."""

    PASSED = "passed"
    TOO_FEW = "too_few"
    ALARM = "alarm"


@dataclass(frozen=True, slots=True)
class ValidationCheck:
    """One figure against its limit."""

    model: str
    model_key: str
    where: str
    """The unit that labels were given for, "images" or "studies", or the station."""
    what: str
    """"sensitivity", "specificity", or drift of "score", "brightness" or "positive rate"."""
    n: int
    """Labels, or images of the station in the window."""
    value: float | None
    """0..1; drift is the KS distance to the days before, for the rate simply its change. None: too few."""
    low: float | None
    """The 95 % interval (Wilson); for drift None."""
    high: float | None
    limit: float
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Validated:
    """Result of a validation."""

    verdict: Verdict
    days: int
    compared: int
    uncertain: int
    """Labels that are neither positive nor negative."""
    unanswered: int
    """Labels without a finding of a model."""
    checks: tuple[ValidationCheck, ...]


def run(database: Database, limits: ValidationSettings) -> Validated:
    """Validate the days before now and record it as `validation_passed`, `..._too_few` or `..._alarm`.

    It is too few only where nothing at all could be judged.
    """
    now = database.clock()
    begin = now - limits.days * DAY
    labels = feedback.current(database, begin)
    answers = views.station_findings(database, begin - limits.reference_days * DAY)
    checks = (*_agreement(labels, limits), *_drift(answers, begin, limits))
    verdicts = {check.verdict for check in checks} or {Verdict.TOO_FEW}
    verdict = next(v for v in (Verdict.ALARM, Verdict.PASSED, Verdict.TOO_FEW) if v in verdicts)
    decided = [label for label in labels if label.label != Label.UNCERTAIN]
    unanswered = sum(label.positive is None for label in decided)
    result = Validated(
        verdict=verdict,
        days=limits.days,
        compared=len(decided) - unanswered,
        uncertain=len(labels) - len(decided),
        unanswered=unanswered,
        checks=checks,
    )
    database.audit(AuditKind(f"validation_{verdict}"), **asdict(result))
    return result


def last(database: Database) -> AuditEvent | None:
    """Audit event of the newest validation; its details are those of `Validated`."""
    return audit.last(database, *(AuditKind(f"validation_{verdict}") for verdict in Verdict))


def _agreement(labels: Sequence[Recorded], limits: ValidationSettings) -> Iterator[ValidationCheck]:
    """Sensitivity and specificity of each model, for images and for studies apart."""
    compared = [label for label in labels if label.label != Label.UNCERTAIN and label.positive is not None]
    groups = _grouped(compared, lambda label: (label.model_key or "", label.sop_instance_uid is None))
    for (key, whole), members in groups.items():
        for what, label, limit in (
            ("sensitivity", Label.POSITIVE, limits.min_sensitivity),
            ("specificity", Label.NEGATIVE, limits.min_specificity),
        ):
            hits = [m.positive == (label == Label.POSITIVE) for m in members if m.label == label]
            value = low = high = None
            verdict = Verdict.TOO_FEW
            if hits:
                value = sum(hits) / len(hits)
                interval = binomtest(sum(hits), len(hits)).proportion_ci(method="wilson")
                low, high = float(interval.low), float(interval.high)
            if high is not None and len(hits) >= limits.min_labels:
                verdict = Verdict.ALARM if high < limit else Verdict.PASSED
            model = members[-1].model_id or key[:12]
            where = "studies" if whole else "images"
            yield ValidationCheck(model, key, where, what, len(hits), value, low, high, limit, verdict)


def _drift(
    answers: Sequence[views.StationFinding], begin: float, limits: ValidationSettings
) -> Iterator[ValidationCheck]:
    """Score, brightness and positive rate of each model's images at each station, against the days before."""
    for (key, station), members in _grouped(
        answers, lambda answer: (answer.model_key, answer.station)
    ).items():
        window = [answer for answer in members if answer.created_at >= begin]
        before = [answer for answer in members if answer.created_at < begin]
        if not window:
            continue
        for what, of in (
            ("score", lambda answer: answer.probability),
            ("brightness", lambda answer: answer.brightness),
            ("positive rate", lambda answer: float(answer.positive)),
        ):
            value = None
            verdict = Verdict.TOO_FEW
            if min(len(window), len(before)) >= limits.min_images:
                test = ks_2samp(
                    np.array([of(answer) for answer in window]), np.array([of(answer) for answer in before])
                )
                value = float(test.statistic)
                alarm = value > limits.max_drift and test.pvalue < CHANCE
                verdict = Verdict.ALARM if alarm else Verdict.PASSED
            where = f"station {station or 'not stated'}"
            model = members[-1].model_id
            yield ValidationCheck(
                model, key, where, what, len(window), value, None, None, limits.max_drift, verdict
            )


def _grouped(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
