"""The steps that a worker takes, without a worker."""

from dataclasses import dataclass

from pacs_node.journal import instances, queue, studies
from pacs_node.journal.database import Database
from pacs_node.records import Analysis, Finding, Instance, ModelIdentity, Outcome, Result, Study


@dataclass(frozen=True)
class Steps:
    """Drives the queues of one journal."""

    database: Database
    model: ModelIdentity
    finding: Finding

    def analyze(self) -> None:
        """Analyze all that is due."""
        while claim := instances.claim_instances(self.database, 8):
            self.finish(claim)

    def finish(self, claim: queue.Claim[Instance]) -> int:
        """Give every image of a claim the same finding."""
        analyses = [Analysis(instance, self.finding) for instance in claim.items]
        return instances.finish_instances(self.database, claim.token, self.model, analyses)

    def report(self, destinations: tuple[str, ...] = ()) -> None:
        """Analyze what is due and report the study."""
        self.analyze()
        claim = studies.claim_study(self.database)
        assert claim is not None
        assert self.finish_report(claim, destinations)

    def finish_report(self, claim: queue.Claim[Study], destinations: tuple[str, ...] = ()) -> bool:
        """Commit a report with one SC and one SR."""
        (study,) = claim.items
        results = tuple(
            Result(role, f"2.25.{study.id}{study.revision}{number}", "1.2.840", "2.25.7", "f" * 64, 9, None)
            for number, role in enumerate(("SC", "SR"))
        )
        report = studies.StudyReport(
            study.revision, "e" * 64, self.model, Outcome.NEGATIVE, "summary", self.database.clock(), results
        )
        routes = dict.fromkeys(("SC", "SR"), destinations)
        return studies.finish_report(self.database, claim.token, study, report, routes)
