"""The node's processes in the fault harness, and what kills them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from fault_node import OFTEN, POINTS, ROLES

ENTRY = Path(__file__).with_name("fault_node.py")


class Processes:
    """The node's processes, forked by `fault_node.py`; each knows from its start how it will die.

    `hurried`: with waits of two seconds where the product has half a minute.
    """

    def __init__(self, folder: Path, hurried: bool = True) -> None:
        self._deaths = folder / "deaths"
        self._hurried = hurried
        self._nursery = subprocess.Popen(
            [sys.executable, str(ENTRY)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, role: str, config: Path, crash: tuple[str, bool, int] | None = None) -> int:
        """Start a role; `crash`: at which point it dies, whether after the call, and at which call."""
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        line = json.dumps({"role": role, "config": str(config), "crash": crash, "hurried": self._hurried})
        self._nursery.stdin.write(f"{line}\n")
        self._nursery.stdin.flush()
        return int(self._nursery.stdout.readline())

    def deaths(self) -> dict[int, str]:
        """How processes ended that were not killed from outside, by their id: a point, an error or "end"."""
        if not self._deaths.exists():
            return {}
        lines = (line.split("\t") for line in self._deaths.read_text().splitlines())
        return {int(pid): how for pid, _, how in lines}

    def close(self) -> None:
        """Kill what still runs."""
        self._nursery.communicate()


def is_alive(pid: int) -> bool:
    """Whether this process exists; its parent lets no dead ones stay."""
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


class Doom:
    """Keeps the roles running and kills them: at a point, at a moment, or all at once."""

    def __init__(self, processes: Processes, configs: Sequence[Path], seed: str) -> None:
        self._processes = processes
        self._places = [(role, config) for config in configs for role in ROLES]
        self._lives = [random.Random(f"{seed} lives {number}") for number in range(len(self._places))]
        self._decks: list[list[tuple[str, bool]]] = [[] for _ in self._places]
        self._together = random.Random(f"{seed} all at once")
        self._running: dict[int, tuple[int, float]] = {}
        self._all_at = time.monotonic() + self._together.uniform(8, 18)
        self.kills: Counter[str] = Counter()
        self.errors: list[str] = []

    @property
    def pids(self) -> dict[str, int]:
        """The process that does each role, of several the last one."""
        return {self._places[number][0]: pid for number, (pid, _) in self._running.items()}

    def tend(self, deadly: bool) -> None:
        """Start what is dead, kill whose time is up; without `deadly` every process may live."""
        now = time.monotonic()
        if deadly and now > self._all_at:
            for number in list(self._running):
                self._kill(number, "all at once")
            self._all_at = now + self._together.uniform(8, 18)
        for number, (role, _) in enumerate(self._places):
            pid, dies_at = self._running.get(number, (0, 0.0))
            if pid and now > dies_at and is_alive(pid):
                self._kill(number, f"{role} at a random moment")
            elif pid and not is_alive(pid):
                self._bury(number, role, pid)
            if number not in self._running:
                self._running[number] = self._bear(number, deadly, now)

    def spare(self) -> None:
        """Replace every process by one that is not doomed."""
        for number in list(self._running):
            self._kill(number, "all at once")
        self.tend(deadly=False)

    def stop(self) -> None:
        """SIGTERM to all; an error is one that does not end, or not in order."""
        pids = {pid: self._places[number][0] for number, (pid, _) in self._running.items()}
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 30
        while any(map(is_alive, pids)) and time.monotonic() < deadline:
            time.sleep(0.02)
        ends = self._processes.deaths()
        self.errors += [
            f"{role} ended with {ends.get(pid)}" for pid, role in pids.items() if ends.get(pid) != "end"
        ]

    def _bear(self, number: int, deadly: bool, now: float) -> tuple[int, float]:
        (role, config), chance = self._places[number], self._lives[number]
        crash, life = None, float("inf")
        if deadly:
            if chance.random() < 0.75:
                point, after = self._decks[number].pop() if self._decks[number] else self._deal(number)
                crash = point, after, chance.choice((1, 3, 5, 8, 13) if point in OFTEN else (1, 1, 2, 3))
            life = chance.uniform(0.5, 6) if crash is None else chance.uniform(4, 8)
        return self._processes.start(role, config, crash), now + life

    def _deal(self, number: int) -> tuple[str, bool]:
        """Begin the role's points anew, in another order; each comes once before any comes again."""
        role = self._places[number][0]
        points = [point for point, (roles, _, _) in POINTS.items() if role in roles]
        deck = [(point, after) for point in points for after in (False, True)]
        self._lives[number].shuffle(deck)
        self._decks[number] = deck
        return deck.pop()

    def _kill(self, number: int, how: str) -> None:
        pid, _ = self._running.pop(number)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.kills[how] += 1
        while is_alive(pid):
            time.sleep(0.002)

    def _bury(self, number: int, role: str, pid: int) -> None:
        del self._running[number]
        how = self._processes.deaths().get(pid, "nobody knows how")
        if how.startswith(("before ", "after ")):
            self.kills[how] += 1
        else:
            self.errors.append(f"{role} died by itself: {how}")
