"""Thousands of damaged files, data sets and conversations: does the node answer each of them?

Mutated files go through spool, intake, analysis and report, each on a new node in a child process, so that a
decoder that crashes or hangs is seen and named. Each file must end analyzed, skipped, failed or refused, with
its audit line, and each study of images with a report that viewers show. Data sets of arbitrary attributes
are drawn by hypothesis and treated alike. Conversations of malformed PDUs go to the role `receive`; after
each fifty of them it must still take a C-ECHO and a C-STORE, with no thread or descriptor more.

What fails is saved by its seed and number; `--seed S --first N --files 1` tries it again.
"""

from __future__ import annotations

import json
import logging
import pickle
import select
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.fuzz import conversations, files, pdus

TESTS = Path(__file__).parents[1] / "tests"
CASE_SECONDS = 120.0
BATCH = 50
SENDERS = 6
WARM = 300
"""So many cases are tried, or conversations held, before memory is looked at, and so many are a sample."""
ALLOWED_MB = 30.0
"""What a process may have more in the last sample than in the first, before it is called growth."""


@dataclass
class Findings:
    """The outcomes of all cases."""

    tried: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    crashes: Counter[str] = field(default_factory=Counter)
    """By the place in which a process died."""
    wrong: list[str] = field(default_factory=list)
    peak: tuple[float, str] = (0.0, "")
    """The most memory that one file took, in MB, and which one."""
    slowest: tuple[float, str] = (0.0, "")
    growth_mb: dict[str, float] = field(default_factory=dict)

    def add(self, what: str) -> None:
        """Record a failure and print it at once."""
        self.wrong.append(what)
        print(f"WRONG: {what}", file=sys.stderr, flush=True)


class Child:
    """A child process that tries one case after the other."""

    def __init__(self, folder: Path, seed: str) -> None:
        self._folder, self._seed = folder, seed
        self._start()

    def _start(self) -> None:
        shutil.rmtree(self._folder / "work", ignore_errors=True)
        with (self._folder / "errors").open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "support.fuzz.fuzz_bench", str(self._folder / "work"), self._seed],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
            )
        self.tried = 0

    def ask(self, number: int) -> dict[str, Any] | str:
        """The outcome of this case; a text if the process died or had to be killed."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{number}\n".encode())
        answer = b""
        while not answer.endswith(b"\n"):
            if not select.select([self._process.stdout], [], [], CASE_SECONDS)[0]:
                self.end()
                self._start()
                return "hang"
            if not (read := self._process.stdout.read(1 << 16)):
                how = self._process.wait()
                self.end()
                errors = (self._folder / "errors").read_text(errors="replace")
                places = [line.strip() for line in errors.splitlines() if 'File "' in line]
                self._start()
                return f"exit {how}: {places[0] if places else errors[-200:]}"
            answer += read
        self.tried += 1
        outcome: dict[str, Any] = json.loads(answer)
        return outcome

    def end(self) -> None:
        """Kill the process and close its pipes."""
        self._process.kill()
        self._process.communicate()


def try_files(folder: Path, seed: str, numbers: range, data: Path, kept: Path, findings: Findings) -> None:
    """Run mutated files through the whole node, one after the other."""
    begin = files.seeds(data if data.is_dir() else None)
    (folder / "seeds").write_bytes(pickle.dumps(begin))
    child, memory = Child(folder, seed), list[float]()
    for count, number in enumerate(numbers):
        name = f"file {seed}-{number}"
        answer = child.ask(number)
        findings.tried["files"] += 1
        if isinstance(answer, str):
            findings.outcomes["crash" if answer != "hang" else "hang"] += 1
            findings.crashes[answer] += 1
            findings.add(f"{name}: {answer}")
        else:
            findings.outcomes.update(answer["files"])
            findings.peak = max(findings.peak, (answer["peak_mb"], f"{name}: {answer['what']}"))
            findings.slowest = max(findings.slowest, (answer["seconds"], f"{name}: {answer['what']}"))
            if child.tried == 1:
                memory.clear()
            memory.append(answer["mb"])
            for what in answer["wrong"]:
                findings.add(f"{name}: {what}")
        if isinstance(answer, str) or answer["wrong"]:
            kept.mkdir(parents=True, exist_ok=True)
            for part, content in enumerate(files.case(seed, number, begin)[1]):
                (kept / f"{seed}-{number}-{part}.dcm").write_bytes(content)
        if count % 500 == 499:
            print(
                f"{count + 1} files: {summary(findings.outcomes)}; {memory[-1]:.0f} MB",
                file=sys.stderr,
                flush=True,
            )
    child.end()
    findings.growth_mb["files"] = growth(memory)


def growth(memory: list[float]) -> float:
    """Growth of the minimum from the samples after the first WARM to the last samples."""
    if len(memory) < 3 * WARM:
        return 0.0
    return round(min(memory[-WARM:]) - min(memory[WARM : 2 * WARM]), 1)


def try_data_sets(folder: Path, count: int, seed: int, kept: Path, findings: Findings) -> None:
    """Try data sets of arbitrary attributes in a child process."""
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "support.fuzz.data_sets",
            str(count),
            str(seed),
            str(folder),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    findings.tried["data sets"] += count
    for part in done.stdout.split(", "):
        what, _, number = part.strip().rpartition(" ")
        findings.outcomes[what] += int(number or 0)
    if done.returncode:
        findings.add(f"data sets, seed {seed}: exit {done.returncode}: {done.stderr[-1500:]}")
        if (folder / "failing.dcm").exists():
            kept.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / "failing.dcm", kept / f"data-set-{seed}.dcm")


def try_streams(folder: Path, seed: str, numbers: range, findings: Findings) -> None:
    """Send conversations of malformed PDUs, several at once, to one role `receive`."""
    with (folder / "receive.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "support.fuzz.conversations", str(folder / "storage")],
            stdout=subprocess.PIPE,
            stderr=log,
        )
    assert process.stdout
    port = int(process.stdout.readline())
    role = psutil.Process(process.pid)
    recorded = conversations.record(port)
    rest: tuple[int, int] | None = None
    memory: list[float] = []
    with ThreadPoolExecutor(SENDERS) as senders:
        for start in range(numbers.start, numbers.stop, BATCH):
            batch = range(start, min(start + BATCH, numbers.stop))
            streams = [pdus.stream(seed, number, recorded) for number in batch]
            for number, stream, took in zip(
                batch,
                streams,
                senders.map(partial(conversations.send, port), streams),
                strict=True,
            ):
                findings.tried["conversations"] += 1
                findings.outcomes[f"conversation {took}"] += 1
                if took == "hung":
                    findings.add(f"conversation {seed}-{number} never ended: {stream.what}")
            name = f"conversations {seed}-{batch.start} to {batch.stop - 1}"
            if process.poll() is not None:
                findings.crashes[f"receive: exit {process.returncode}"] += 1
                findings.add(f"{name}: the role ended with {process.returncode}")
                return
            # On a busy machine a sender may be so slow that it is cut off as one that stalls.
            if not any(conversations.echo_and_store(port) for _ in range(5)):
                findings.add(f"{name}: no C-ECHO or C-STORE afterwards")
            rest = rest or settled(role)
            if not comes_to(role, rest):
                now = role.num_threads(), role.num_fds()
                findings.add(f"{name}: threads and descriptors {rest} before, {now} after")
            memory += [role.memory_info().rss / 1e6] * len(batch)
    findings.growth_mb["conversations"] = growth(memory)
    process.terminate()
    if process.wait(60):
        findings.add(f"the role `receive` ended with {process.returncode}")
    if "Traceback" in (output := (folder / "receive.log").read_text(errors="replace")):
        findings.add(f"the role `receive` printed a traceback: {output[-1000:]}")


def settled(role: psutil.Process) -> tuple[int, int]:
    """Numbers of threads and descriptors once all connections are closed."""
    lowest = role.num_threads(), role.num_fds()
    end = time.monotonic() + 3 * conversations.STALL_SECONDS
    while time.monotonic() < end:
        lowest = min(lowest, (role.num_threads(), role.num_fds()))
        time.sleep(0.05)
    return lowest


def comes_to(role: psutil.Process, rest: tuple[int, int]) -> bool:
    """Whether the role returns to these numbers of threads and descriptors."""
    end = time.monotonic() + 60
    while role.num_threads() > rest[0] or role.num_fds() > rest[1]:
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def summary(counts: Counter[str]) -> str:
    """Counts in one line."""
    return ", ".join(f"{what} {count}" for what, count in sorted(counts.items()))


def main(
    files: Annotated[int, typer.Option(min=0, help="Mutated files.")] = 10_000,
    data_sets: Annotated[int, typer.Option(min=0, help="Data sets of hypothesis.")] = 2_000,
    streams: Annotated[int, typer.Option(min=0, help="Conversations.")] = 5_000,
    seed: Annotated[str, typer.Option(help="What is drawn follows from it; a number.")] = "0",
    first: Annotated[int, typer.Option(min=0, help="The number of the first file and conversation.")] = 0,
    data: Annotated[Path, typer.Option(help="Folder with files of real devices.")] = (
        TESTS.parents[1] / "shared" / "data" / "dicom"
    ),
    keep: Annotated[Path, typer.Option(help="Where what fails is saved.")] = Path("fuzz-failures"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
) -> None:
    """Try damaged input, count the outcomes, and report failures."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    findings, begin = Findings(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pacs-node-fuzz-", dir=memory_disk()) as place:
        folder = Path(place)
        if files:
            try_files(folder, seed, range(first, first + files), data, keep, findings)
        if data_sets:
            try_data_sets(folder, data_sets, int(seed), keep, findings)
        if streams:
            try_streams(folder, seed, range(first, first + streams), findings)
    for what, mb in findings.growth_mb.items():
        if mb > ALLOWED_MB:
            findings.add(f"{what}: {mb} MB more at the end than at the beginning")
    rows: dict[str, Any] = {
        "seed": seed,
        "first": first,
        "tried": dict(findings.tried),
        "outcomes": dict(findings.outcomes),
        "crashes": dict(findings.crashes),
        "peak": findings.peak,
        "slowest": findings.slowest,
        "growth_mb": findings.growth_mb,
        "seconds": round(time.monotonic() - begin),
        "wrong": findings.wrong,
    }
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        table = Table("", "", show_edge=False)
        for name, value in rows.items():
            table.add_row(name, summary(Counter(value)) if isinstance(value, dict) and value else str(value))
        Console(width=110).print(table)
    raise typer.Exit(1 if findings.wrong else 0)


def memory_disk() -> str | None:
    """A folder in memory if there is one, since a new node for each case writes and syncs much."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


if __name__ == "__main__":
    typer.run(main)
