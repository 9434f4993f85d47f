"""Damaged files, data sets and conversations by the thousand: does the node keep its promises?

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
    """What came of all that was tried."""

    tried: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    crashes: Counter[str] = field(default_factory=Counter)
    """By the place in which a process died."""
    wrong: list[str] = field(default_factory=list)
    peak: tuple[float, str] = (0.0, "")
    """The most memory that one file took, in MB, and which one."""
    slowest: tuple[float, str] = (0.0, "")
    growth_mb: dict[str, float] = field(default_factory=dict)

    def say(self, what: str) -> None:
        """Note what must never be, and print it at once."""
        self.wrong.append(what)
        print(f"WRONG: {what}", file=sys.stderr, flush=True)


class Child:
    """A process that tries one case after the other."""

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
        """What came of this case; a text where the process died of it, or had to be killed."""
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
                told = (self._folder / "errors").read_text(errors="replace")
                places = [line.strip() for line in told.splitlines() if 'File "' in line]
                self._start()
                return f"exit {how}: {places[0] if places else told[-200:]}"
            answer += read
        self.tried += 1
        found: dict[str, Any] = json.loads(answer)
        return found

    def end(self) -> None:
        """Kill it, and close what leads to it."""
        self._process.kill()
        self._process.communicate()


def try_files(folder: Path, seed: str, numbers: range, data: Path, kept: Path, found: Findings) -> None:
    """Mutated files, one after the other, through the whole node."""
    begin = files.seeds(data if data.is_dir() else None)
    (folder / "seeds").write_bytes(pickle.dumps(begin))
    child, memory = Child(folder, seed), list[float]()
    for count, number in enumerate(numbers):
        name = f"file {seed}-{number}"
        answer = child.ask(number)
        found.tried["files"] += 1
        if isinstance(answer, str):
            found.outcomes["crash" if answer != "hang" else "hang"] += 1
            found.crashes[answer] += 1
            found.say(f"{name}: {answer}")
        else:
            found.outcomes.update(answer["files"])
            found.peak = max(found.peak, (answer["peak_mb"], f"{name}: {answer['what']}"))
            found.slowest = max(found.slowest, (answer["seconds"], f"{name}: {answer['what']}"))
            if child.tried == 1:
                memory.clear()
            memory.append(answer["mb"])
            for what in answer["wrong"]:
                found.say(f"{name}: {what}")
        if isinstance(answer, str) or answer["wrong"]:
            kept.mkdir(parents=True, exist_ok=True)
            for part, content in enumerate(files.case(seed, number, begin)[1]):
                (kept / f"{seed}-{number}-{part}.dcm").write_bytes(content)
        if count % 500 == 499:
            print(
                f"{count + 1} files: {told(found.outcomes)}; {memory[-1]:.0f} MB", file=sys.stderr, flush=True
            )
    child.end()
    found.growth_mb["files"] = growth(memory)


def growth(memory: list[float]) -> float:
    """How much more was taken at the least among the last samples than among those after the first WARM."""
    if len(memory) < 3 * WARM:
        return 0.0
    return round(min(memory[-WARM:]) - min(memory[WARM : 2 * WARM]), 1)


def try_data_sets(folder: Path, count: int, seed: int, kept: Path, found: Findings) -> None:
    """Data sets of arbitrary attributes, in a child process."""
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
    found.tried["data sets"] += count
    for part in done.stdout.split(", "):
        what, _, number = part.strip().rpartition(" ")
        found.outcomes[what] += int(number or 0)
    if done.returncode:
        found.say(f"data sets, seed {seed}: exit {done.returncode}: {done.stderr[-1500:]}")
        if (folder / "failing.dcm").exists():
            kept.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / "failing.dcm", kept / f"data-set-{seed}.dcm")


def try_streams(folder: Path, seed: str, numbers: range, found: Findings) -> None:
    """Conversations of malformed PDUs, several at once, with one role `receive`."""
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
                batch, streams, senders.map(lambda one: conversations.send(port, one), streams), strict=True
            ):
                found.tried["conversations"] += 1
                found.outcomes[f"conversation {took}"] += 1
                if took == "hung":
                    found.say(f"conversation {seed}-{number} never ended: {stream.what}")
            name = f"conversations {seed}-{batch.start} to {batch.stop - 1}"
            if process.poll() is not None:
                found.crashes[f"receive: exit {process.returncode}"] += 1
                found.say(f"{name}: the role ended with {process.returncode}")
                return
            # On a busy machine a sender may be so slow that it is cut off as one that stalls.
            if not any(conversations.echo_and_store(port) for _ in range(5)):
                found.say(f"{name}: no C-ECHO or C-STORE afterwards")
            rest = rest or settled(role)
            if not comes_to(role, rest):
                now = role.num_threads(), role.num_fds()
                found.say(f"{name}: threads and descriptors {rest} before, {now} after")
            memory += [role.memory_info().rss / 1e6] * len(batch)
    found.growth_mb["conversations"] = growth(memory)
    process.terminate()
    if process.wait(60):
        found.say(f"the role `receive` ended with {process.returncode}")
    if "Traceback" in (said := (folder / "receive.log").read_text(errors="replace")):
        found.say(f"the role `receive` printed a traceback: {said[-1000:]}")


def settled(role: psutil.Process) -> tuple[int, int]:
    """Threads and descriptors once nobody is connected any more."""
    lowest = role.num_threads(), role.num_fds()
    end = time.monotonic() + 3 * conversations.STALL_SECONDS
    while time.monotonic() < end:
        lowest = min(lowest, (role.num_threads(), role.num_fds()))
        time.sleep(0.05)
    return lowest


def comes_to(role: psutil.Process, rest: tuple[int, int]) -> bool:
    """Whether it gets back to this many threads and descriptors."""
    end = time.monotonic() + 60
    while role.num_threads() > rest[0] or role.num_fds() > rest[1]:
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def told(counts: Counter[str]) -> str:
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
    """Try, count, and say what was wrong."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    found, begin = Findings(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pacs-node-fuzz-", dir=memory_disk()) as place:
        folder = Path(place)
        if files:
            try_files(folder, seed, range(first, first + files), data, keep, found)
        if data_sets:
            try_data_sets(folder, data_sets, int(seed), keep, found)
        if streams:
            try_streams(folder, seed, range(first, first + streams), found)
    for what, mb in found.growth_mb.items():
        if mb > ALLOWED_MB:
            found.say(f"{what}: {mb} MB more at the end than at the beginning")
    rows: dict[str, Any] = {
        "seed": seed,
        "first": first,
        "tried": dict(found.tried),
        "outcomes": dict(found.outcomes),
        "crashes": dict(found.crashes),
        "peak": found.peak,
        "slowest": found.slowest,
        "growth_mb": found.growth_mb,
        "seconds": round(time.monotonic() - begin),
        "wrong": found.wrong,
    }
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        table = Table("", "", show_edge=False)
        for name, value in rows.items():
            table.add_row(name, told(Counter(value)) if isinstance(value, dict) and value else str(value))
        Console(width=110).print(table)
    raise typer.Exit(1 if found.wrong else 0)


def memory_disk() -> str | None:
    """A file system in memory, where there is one: a node for each case writes and syncs much."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


if __name__ == "__main__":
    typer.run(main)
