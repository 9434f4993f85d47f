"""The node's processes in the fault harness, and the killer of them."""

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
from dataclasses import dataclass
from pathlib import Path

import psutil

from support.faults.doomed_role import HELD, LEASE_SECONDS, OFTEN, POINTS, ROLES, STALLED


class Processes:
    """The node's processes, forked by `doomed_role`; each is given its way to die when it starts.

    `hurried`: with waits of two seconds instead of half a minute.
    """

    def __init__(self, folder: Path, hurried: bool = True) -> None:
        self._deaths = folder / "deaths"
        self._hurried = hurried
        self._nursery = subprocess.Popen(
            [sys.executable, "-m", "support.faults.doomed_role"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, role: str, config: Path, crash: tuple[str, str, int] | None = None) -> int:
        """Start a role; `crash` is ("before", "after" or "stalled before", function, number of the call)."""
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        line = json.dumps({"role": role, "config": str(config), "crash": crash, "hurried": self._hurried})
        self._nursery.stdin.write(f"{line}\n")
        self._nursery.stdin.flush()
        return int(self._nursery.stdout.readline())

    def deaths(self) -> dict[int, str]:
        """By process id: how each ended that was not killed from outside: a point, an error or "end"."""
        if not self._deaths.exists():
            return {}
        lines = (line.split("\t") for line in self._deaths.read_text().splitlines())
        return {int(pid): how for pid, _, how in lines}

    def close(self) -> None:
        """Kill the processes that still run."""
        self._nursery.communicate()


def is_alive(pid: int) -> bool:
    """Whether this process exists; its parent reaps the dead."""
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


@dataclass
class Life:
    """A running process and when it is to be killed or woken."""

    pid: int
    dies_at: float
    stalls: str = ""
    """Where it stops by itself, if it does; for longer than its leases."""
    seconds: float = 0.0
    wakes_at: float = 0.0


class Killer:
    """Keeps the roles running and kills them: at a point, at random, or all at once. Some only stall.

    `crew`: the roles of each machine.
    """

    def __init__(
        self, processes: Processes, configs: Sequence[Path], seed: str, crew: Sequence[str] = tuple(ROLES)
    ) -> None:
        self._processes = processes
        self._places = [(role, config) for config in configs for role in crew]
        self._lives = [random.Random(f"{seed} lives {number}") for number in range(len(self._places))]
        self._decks: list[list[tuple[str, str]]] = [[] for _ in self._places]
        self._together = random.Random(f"{seed} all at once")
        self._running: dict[int, Life] = {}
        self._all_at = time.monotonic() + self._together.uniform(8, 18)
        self.kills: Counter[str] = Counter()
        self.stalls: Counter[str] = Counter()
        """Those that came back."""
        self.errors: list[str] = []

    @property
    def pids(self) -> dict[str, int]:
        """A process of each role, the last one started."""
        return {self._places[number][0]: life.pid for number, life in self._running.items()}

    def step(self, deadly: bool) -> None:
        """Start dead roles and kill those whose time is up; without `deadly`, kill none."""
        now = time.monotonic()
        if deadly and now > self._all_at:
            for number, running in list(self._running.items()):
                if not running.wakes_at:
                    self._kill(number, "all at once")
            self._all_at = now + self._together.uniform(8, 18)
        for number, (role, _) in enumerate(self._places):
            life = self._running.get(number)
            if life and not is_alive(life.pid):
                self._record_end(number, role, life.pid)
            elif life and life.stalls and psutil.Process(life.pid).status() == psutil.STATUS_STOPPED:
                self._wake(life, now)
            elif life and now > life.dies_at:
                self._kill(number, f"{role} at a random moment")
            if number not in self._running:
                self._running[number] = self._begin(number, deadly, now)

    def replace_all(self) -> None:
        """Replace every process by one that will not be killed."""
        for number in list(self._running):
            self._kill(number, "all at once")
        self.step(deadly=False)

    def stop(self) -> None:
        """Send SIGTERM to all; a process that does not end, or not cleanly, is an error."""
        pids = {life.pid: self._places[number][0] for number, life in self._running.items()}
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

    def _begin(self, number: int, deadly: bool, now: float) -> Life:
        (role, config), chance = self._places[number], self._lives[number]
        if not deadly:
            return Life(self._processes.start(role, config), float("inf"))
        fate = chance.random()
        if role in HELD and fate < 0.5:
            how, point = STALLED, chance.choice(HELD[role])
        elif fate < 0.8:
            how, point = self._decks[number].pop() if self._decks[number] else self._next_point(number)
        else:
            return Life(self._processes.start(role, config), now + chance.uniform(0.5, 6))
        rarely = (1,) if how == STALLED else (1, 1, 2, 3)
        n = chance.choice((1, 3, 5, 8, 13) if point in OFTEN else rarely)
        life = Life(self._processes.start(role, config, (how, point, n)), now + chance.uniform(4, 9))
        if how == STALLED:
            life.stalls, life.seconds = point, LEASE_SECONDS * chance.uniform(1.5, 2.5)
        return life

    def _wake(self, life: Life, now: float) -> None:
        """Resume a stalled process once its leases have expired, and let it live a little longer."""
        if not life.wakes_at:
            life.wakes_at = now + life.seconds
        elif now > life.wakes_at:
            os.kill(life.pid, signal.SIGCONT)
            self.stalls[life.stalls] += 1
            life.stalls, life.wakes_at, life.dies_at = "", 0.0, now + LEASE_SECONDS

    def _next_point(self, number: int) -> tuple[str, str]:
        """Shuffle the role's points: each is used once before any is used again."""
        role = self._places[number][0]
        points = [point for point, (roles, _, _) in POINTS.items() if role in roles]
        deck = [(how, point) for point in points for how in ("before", "after")]
        self._lives[number].shuffle(deck)
        self._decks[number] = deck
        return deck.pop()

    def _kill(self, number: int, how: str) -> None:
        pid = self._running.pop(number).pid
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.kills[how] += 1
        while is_alive(pid):
            time.sleep(0.002)

    def _record_end(self, number: int, role: str, pid: int) -> None:
        del self._running[number]
        how = self._processes.deaths().get(pid, "nobody knows how")
        if how.startswith(("before ", "after ")):
            self.kills[how] += 1
        else:
            self.errors.append(f"{role} died by itself: {how}")
