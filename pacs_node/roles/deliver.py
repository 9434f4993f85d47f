"""Role `deliver`: sends results, in one thread for each destination."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from structlog.contextvars import bind_contextvars

from pacs_node.config import Destination, Settings
from pacs_node.deliver import commitment, query, sender
from pacs_node.dicom import tls
from pacs_node.journal import commitments, deliveries
from pacs_node.node import Node
from pacs_node.roles import lifecycle
from pacs_node.roles.lifecycle import Heartbeat, work_off

COMMITMENT_SECONDS = 2.0
"""Interval between checks for storage commitments to request, which are not urgent."""


def run(settings: Settings, stop: threading.Event) -> None:
    """The role that sends results: a thread for each destination, so that none holds up another."""
    node = Node.open(settings)
    database, ae_title = node.database, node.identity.ae_title
    if any(destination.tls for destination in settings.destinations):
        # Faulty certificate files are reported at once, not at the first delivery.
        tls.requestor(settings.tls)
    with Heartbeat(database, "deliver") as heartbeat:
        unreached: Counter[str] = Counter()

        def send(destination: Destination) -> bool:
            claim = deliveries.claim_deliveries(database, destination.name, sender.BATCH)
            if claim is None:
                return False
            bind_contextvars(study_instance_uid=claim.items[0].study_instance_uid)
            with heartbeat.hold(claim.token):
                reached = sender.send(database, node.files, destination, ae_title, claim)
            if reached:
                del unreached[destination.name]
            else:
                # While the destination does not answer, one study at a time tries for all of them.
                unreached[destination.name] += 1
                stop.wait(sender.pause_seconds(unreached[destination.name]))
            return True

        def commit(destination: Destination) -> bool:
            return commitment.step(database, destination, ae_title, stop)

        def count() -> bool:
            return query.count_study(settings, database, ae_title)

        def repeat(what: str, step: Callable[[], bool], pause: float = lifecycle.POLL_SECONDS) -> None:
            while not stop.is_set():
                work_off(stop, what, step)
                stop.wait(pause)

        work: list[tuple[Any, ...]] = [
            (f"deliver to {each.name}", partial(send, each)) for each in settings.destinations
        ]
        archives = [each for each in settings.destinations if each.commitment]
        work += [
            (f"commitment of {each.name}", partial(commit, each), COMMITMENT_SECONDS) for each in archives
        ]
        if settings.study.expected_count == "cfind":
            work.append(("counting", count))
        commitments.waive(database, [each.name for each in archives])
        threads = [threading.Thread(target=repeat, args=job, name=job[0]) for job in work]
        for thread in threads:
            thread.start()
        heartbeat.ready()
        # With a timeout: a signal that another thread took is seen only when this thread wakes.
        while not stop.wait(lifecycle.POLL_SECONDS):
            pass
        for thread in threads:
            thread.join()
