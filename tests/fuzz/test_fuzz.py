"""The short form of `benchmarks/fuzz.py`, the same in each run: every input is answered."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from support.fuzz import conversations, data_sets, files, pdus
from support.fuzz.fuzz_bench import FuzzBench
from support.odd_inputs import fuzz_findings
from support.odd_inputs.corpus import Case

from pacs_node.config import NodeSettings
from pacs_node.files import FileStore
from pacs_node.receive import scp
from pacs_node.receive.scp import StorageScp

WaitUntil = Callable[[Callable[[], object], float], None]

FILES, ON_POSTGRESQL, DATA_SETS, CONVERSATIONS = 60, 15, 40, 150
FOUND = [case for group in fuzz_findings.CASES.values() for case in group]


@pytest.fixture(scope="module")
def begin() -> list[files.Seed]:
    return files.seeds(None)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FuzzBench]:
    made = FuzzBench(tmp_path_factory.mktemp("node"))
    yield made
    made.close()


def test_damaged_files_are_answered(bench: FuzzBench, begin: list[files.Seed]) -> None:
    outcomes = set()
    for number in range(FILES):
        what, contents = files.case("short", number, begin)
        outcome = bench.run(contents)
        assert outcome.wrong == [], f"{number}: {what}"
        outcomes.update(outcome.files)
    assert {"analyzed", "failed", "refused", "skipped"} <= outcomes


def test_damaged_files_are_answered_on_postgresql(
    begin: list[files.Seed], tmp_path: Path, database_url: Callable[[str], str]
) -> None:
    made = FuzzBench(tmp_path, database_url("postgresql"))
    for number in range(FILES, FILES + ON_POSTGRESQL):
        what, contents = files.case("short", number, begin)
        assert made.run(contents).wrong == [], f"{number}: {what}"
    made.close()


@settings(
    max_examples=DATA_SETS,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(data_sets.any_file())
def test_data_sets_of_arbitrary_attributes_are_answered(bench: FuzzBench, content: bytes) -> None:
    assert bench.run([content]).wrong == []


@pytest.mark.parametrize("case", FOUND, ids=lambda case: case.name)
def test_earlier_findings_of_fuzzing_are_answered(bench: FuzzBench, case: Case) -> None:
    assert bench.run(case.contents()).wrong == []


def test_the_bench_detects_a_missing_answer(bench: FuzzBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected error in the report, and an audit line that is not written."""
    (content,) = FOUND[0].contents()
    assert bench.run([content]).wrong == []
    monkeypatch.setattr("pacs_node.report.sr._complete", lambda *_: 1 / 0)
    assert "given up after 3 attempts: unexpected ZeroDivisionError" in bench.run([content]).wrong
    monkeypatch.undo()
    monkeypatch.setattr("pacs_node.journal.transaction.Transaction.audit", lambda *_, **__: None)
    assert "no audit line tells of a file" in bench.run([content]).wrong


@pytest.fixture
def port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(scp, "REQUEST_SECONDS", 0.5)
    monkeypatch.setattr(scp, "STALL_SECONDS", 0.5)
    node = NodeSettings.model_validate({"host": "127.0.0.1", "port": 0})
    running = StorageScp(node, (), FileStore(tmp_path), 0, lambda spooled, header: None)
    running.start()
    yield running.port
    running.stop()


def test_malformed_conversations_leave_no_threads_or_descriptors(port: int, wait_until: WaitUntil) -> None:
    recorded = conversations.record(port)
    wait_until(lambda: threading.active_count() <= 2, 20)
    threads, handles = threading.active_count(), descriptors()
    streams = [pdus.stream("short", number, recorded) for number in range(CONVERSATIONS)]
    with ThreadPoolExecutor(4) as senders:
        took = list(senders.map(lambda stream: conversations.send(port, stream), streams))
    assert "hung" not in took
    assert {"answered", "hung up"} <= set(took)
    assert conversations.echo_and_store(port)
    wait_until(lambda: threading.active_count() <= threads, 20)
    wait_until(lambda: descriptors() <= handles, 20)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
