"""A node without its network that is given damaged files, and the outcome of each.

As a program it is the child of `benchmarks/fuzz.py`, which sends it one case after the other and so knows
which one killed it.
"""

from __future__ import annotations

import faulthandler
import hashlib
import json
import logging
import pickle
import resource
import shutil
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import sqlalchemy as sa
import structlog
from pydicom import dcmread

from pacs_node.errors import AdmissionError
from pacs_node.journal import audit, views
from pacs_node.journal.schema import AuditHeadRow, Base, NodeRow
from pacs_node.receive import admission
from pacs_node.report.sr import as_text
from support import viewer_rules
from support.bench import Bench
from support.brightness import Brightness
from support.fuzz import files

LIMIT = 6 << 30
"""Address space of the child, of which Python and its libraries take more than one GiB."""
ENDS = {"ANALYZED": "analyzed", "FAILED": "analysis_failed", "SKIPPED": "skipped"}
"""The last states of an instance, and the audit event that leads there."""


@dataclass
class Outcome:
    """The outcome of one case."""

    files: list[str] = field(default_factory=list)
    """Of each file: refused, duplicate, skipped, analyzed or failed."""
    reasons: list[str] = field(default_factory=list)
    """Why, of those that were not analyzed."""
    wrong: list[str] = field(default_factory=list)
    """What must never be; empty where the node kept its promises."""


class FuzzBench(Bench):
    """A node in a folder of its own; its journal may be elsewhere."""

    def __init__(self, folder: Path, database_url: str = "") -> None:
        super().__init__(folder, Brightness(0.2), storage={"path": folder, "database": database_url})
        with self.database.read() as connection:
            self._head = dict(connection.execute(sa.select(*AuditHeadRow.__table__.columns)).mappings().one())

    def run(self, contents: Sequence[bytes]) -> Outcome:
        """Receive, register, analyze and report these files, then check that each has its answer.

        The node knows no other files, and forgets these afterwards.
        """
        outcome = Outcome()
        try:
            refused = [self._spool(content) for content in contents]
            self.take_in()
            if self.files.spooled():
                outcome.wrong.append("the intake left something in the spool")
            self.work(minutes=24)
            self._look(contents, refused, outcome)
        except Exception as error:  # noqa: BLE001 - what escapes from the node is what is looked for
            where = traceback.extract_tb(error.__traceback__)[-1]
            outcome.wrong.append(
                f"{type(error).__name__} in {Path(where.filename).name}:{where.lineno}: {error}"[:300]
            )
        self.forget()
        return outcome

    def _spool(self, content: bytes) -> str | None:
        """Spool a file as the SCP does; a refused one stays in the spool, as after a disk fault."""
        try:
            self.files.spool([content], admission.read_header)
        except AdmissionError as error:
            self.files.spool([content], str)
            return str(error)
        return None

    def _look(self, contents: Sequence[bytes], refused: Sequence[str | None], outcome: Outcome) -> None:
        events = list(audit.events(self.database))
        registered = {event.details.get("sha256"): event for event in events if "sha256" in event.details}
        seen: set[str] = set()
        for content, why in zip(contents, refused, strict=True):
            sha256 = hashlib.sha256(content).hexdigest()
            event = registered.get(sha256)
            if event is None:
                outcome.wrong.append("no audit line tells of a file")
            elif (event.event == "unreadable") != (why is not None):
                outcome.wrong.append(f"refused ({why}), then audited as {event.event}")
            elif why is not None:
                outcome.files.append("refused")
                outcome.reasons.append(why)
            elif sha256 in seen:
                outcome.files.append("duplicate")
            else:
                self._look_at_file(sha256, {item.event for item in events}, outcome)
            seen.add(sha256)
        if audit.verify(self.database)[1] is not None:
            outcome.wrong.append("the audit log does not hold")
        for study in views.studies(self.database, 100):
            self._look_at_study(study["study_instance_uid"], outcome)

    def _look_at_file(self, sha256: str, events: set[str], outcome: Outcome) -> None:
        for study in views.studies(self.database, 100):
            for instance in self.study(study["study_instance_uid"])["instances"]:
                if instance["sha256"] != sha256:
                    continue
                state, reason = str(instance["state"]), str(instance["reason"] or "")
                if state not in ENDS or ENDS[state] not in events:
                    outcome.wrong.append(f"an instance ends as {state}, without its audit event")
                outcome.files.append(state.lower())
                if state != "ANALYZED":
                    outcome.reasons.append(reason)
                if reason.startswith("given up"):
                    outcome.wrong.append(reason)
                return
        outcome.wrong.append("a file was let in, and no instance is there")

    def _look_at_study(self, uid: str, outcome: Outcome) -> None:
        study = self.study(uid)
        # Of several versions of an image the newest counts.
        newest = {instance["sop_instance_uid"]: instance["state"] for instance in study["instances"]}
        states = Counter(newest.values())
        reason = str(study["reason"] or "")
        if study["state"] not in ("READY", "DELIVERED", "SKIPPED", "FAILED"):
            outcome.wrong.append(f"a study stays {study['state']}")
        if reason.startswith("given up"):
            outcome.wrong.append(reason)
        documents = [result for result in study["results"] if result["role"] == "SR"]
        if states["ANALYZED"] + states["FAILED"] and not documents and "identity conflict" not in reason:
            outcome.wrong.append("a study with images got no answer")
        for result in study["results"]:
            dataset = dcmread(self.files.path(result["sha256"]))
            if result["role"] == "SR":
                viewer_rules.ohif(dataset)
                viewer_rules.stone(dataset)
                viewer_rules.weasis(dataset)
                as_text(dataset)
            else:
                dataset.pixel_array  # noqa: B018 - it can be decoded

    def forget(self) -> None:
        """Empty the journal and the file store."""
        with self.database.write() as t:
            for table in reversed(Base.metadata.sorted_tables):
                if table.name != NodeRow.__tablename__:
                    t.execute(table.delete())
            t.execute(sa.insert(AuditHeadRow), self._head)
        for folder in self.files.stored():
            for path in folder:
                path.unlink()
        shutil.rmtree(self.files.root / "spool" / "unreadable", ignore_errors=True)
        for item in self.files.spooled():
            item.path.unlink()


def quiet() -> None:
    """Silence logs and warnings: the outcome is read from the journal."""
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    warnings.simplefilter("ignore")


def memory_mb(measure: str) -> float:
    """Memory in 10^6 bytes as the kernel counts it: "VmRSS", or "VmHWM", the peak since the last call."""
    lines = Path("/proc/self/status").read_text().splitlines()
    if measure == "VmHWM":
        Path("/proc/self/clear_refs").write_text("5")
    return int(next(line for line in lines if line.startswith(measure)).split()[1]) * 1024 / 1e6


def main() -> None:
    """Try the mutated files whose numbers come on standard input, one a line."""
    folder, seed = Path(sys.argv[1]), sys.argv[2]
    quiet()
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
    begin: list[files.Seed] = pickle.loads((folder.parent / "seeds").read_bytes())
    bench = FuzzBench(folder)
    memory_mb("VmHWM")
    for line in sys.stdin:
        what, contents = files.case(seed, int(line), begin)
        start, before = time.monotonic(), memory_mb("VmRSS")
        outcome = bench.run(contents)
        registered = {
            **asdict(outcome),
            "what": what,
            "seconds": round(time.monotonic() - start, 2),
            "peak_mb": round(memory_mb("VmHWM") - before, 1),
            "mb": round(memory_mb("VmRSS"), 1),
        }
        sys.stdout.write(json.dumps(registered) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
