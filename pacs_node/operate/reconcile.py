"""Compares the journal with each PACS and lists what is missing on either side."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

from pacs_node.config import Destination, Settings
from pacs_node.deliver import query
from pacs_node.errors import DeliveryError
from pacs_node.journal import deliveries, instances, studies, views
from pacs_node.journal.database import Database
from pacs_node.records import AuditKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A missing object, a failure, or a PACS that could not be queried."""

    missing: str
    """"image": at the PACS but never received. "result": not at the PACS. "analysis" or "delivery": failed
    here. "answer": the PACS could not be queried."""
    destination: str | None
    study_instance_uid: str | None = None
    sop_instance_uid: str | None = None
    detail: str = ""
    fixed: bool = False


def reconcile(
    settings: Settings,
    database: Database,
    destinations: Sequence[Destination],
    since: date,
    until: date,
    who: str,
    fix: bool = False,
    watch: Callable[[Iterable[str]], Iterable[str]] = iter,
) -> list[Gap]:
    """All gaps of the studies dated or received from `since` to `until`, inclusive, in local time.

    With `fix`, missing results are sent again byte for byte, and missing images requested by C-MOVE to this
    node. `watch` wraps the iteration over the studies, to show progress.
    """
    start, end = (
        datetime.combine(day, time()).astimezone().timestamp() for day in (since, until + timedelta(days=1))
    )
    received = studies.studies_received(database, start, end)
    gaps: list[Gap] = []
    compared = dict.fromkeys(received)
    for destination in destinations:
        try:
            with query.connect(destination, settings.node.ae_title) as pacs:
                of_time = dict.fromkeys([*received, *pacs.studies(since, until)])
                compared |= of_time
                asked = {gap.sop_instance_uid for gap in gaps if gap.missing == "image"}
                comparison = _Comparison(settings, database, pacs, destination.name, who, fix)
                for study in watch(of_time):
                    gaps += [*comparison.images(study, asked), *comparison.results(study)]
        except DeliveryError as error:
            gaps.append(Gap(missing="answer", destination=destination.name, detail=str(error)))
    gaps += _failures(settings, database, set(compared))
    database.audit(
        AuditKind.RECONCILED,
        since=since.isoformat(),
        until=until.isoformat(),
        destinations=[destination.name for destination in destinations],
        studies=len(compared),
        gaps=len(gaps),
        fixed=sum(gap.fixed for gap in gaps),
        who=who,
    )
    return gaps


@dataclass(frozen=True, slots=True)
class _Comparison:
    """Comparison of the journal with one PACS."""

    settings: Settings
    database: Database
    pacs: query.PacsQuery
    destination: str
    who: str
    fix: bool

    def images(self, study: str, asked: Collection[str | None]) -> Iterator[Gap]:
        """X-rays at the PACS that were never received, without those `asked` for at another one."""
        here = instances.received_uids(self.database, study)
        _, missing = self.pacs.images(study, self.settings.study.accept.modalities, here)
        known = {*asked, *instances.ever_received_uids(self.database, study)} if missing else set()
        for series, uids in missing.items():
            images = [uid for uid in uids if uid not in known]
            problem = self._move(study, series, images) if self.fix and images else None
            for uid in images:
                fixed = self.fix and problem is None
                yield self._gap("image", study, uid, problem or f"series {series}", fixed)

    def results(self, study: str) -> Iterator[Gap]:
        """Results that should be at the PACS but are not."""
        expected = deliveries.expected_results(self.database, study, self.destination)
        series = dict.fromkeys(result.series_instance_uid for result in expected)
        there = {uid for each in series for uid in self.pacs.instances(study, each)}
        missing = [result for result in expected if result.sop_instance_uid not in there]
        if self.fix and missing:
            deliveries.send_again(self.database, study, self.destination, missing, self.who)
        for result in missing:
            detail = f"{result.role} {result.state}"
            yield self._gap("result", study, result.sop_instance_uid, detail, self.fix)

    def _move(self, study: str, series: str, images: Sequence[str]) -> str | None:
        """Request images; returns the problem, None if they were sent."""
        problem = None
        try:
            self.pacs.move(study, series, images, self.settings.node.ae_title)
        except DeliveryError as error:
            problem = str(error)
        details = {"destination": self.destination, "images": images, "problem": problem, "who": self.who}
        self.database.audit(AuditKind.IMAGES_REQUESTED, study, **details)
        return problem

    def _gap(self, missing: str, study: str, uid: str, detail: str, fixed: bool) -> Gap:
        return Gap(
            missing=missing,
            destination=self.destination,
            study_instance_uid=study,
            sop_instance_uid=uid,
            detail=detail,
            fixed=fixed,
        )


def _failures(settings: Settings, database: Database, studies: set[str]) -> Iterator[Gap]:
    """Failures that the journal records; `retry` and `quarantine` resolve them."""
    names = [destination.name for destination in settings.destinations]
    for row in views.stuck(database, names, answered=True):
        if row["study_instance_uid"] in studies:
            yield Gap(
                missing="delivery" if row["what"] == "delivery" else "analysis",
                destination=row["destination"],
                study_instance_uid=row["study_instance_uid"],
                sop_instance_uid=row["sop_instance_uid"],
                detail=f"{row['trouble']}: {row['reason'] or ''}",
            )
