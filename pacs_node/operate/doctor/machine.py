"""The machine: storage, ports, journal, processes, clock."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import socket
import statistics
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

from pacs_node.config import Settings
from pacs_node.files import FileStore
from pacs_node.journal import audit, views
from pacs_node.journal.database import Database
from pacs_node.journal.processes import missing as missing_roles
from pacs_node.journal.processes import running as running_roles
from pacs_node.journal.schema import REVISION
from pacs_node.operate.doctor import Check, State
from pacs_node.operate.problems import ProblemKind, problems
from pacs_node.records import RunningRole

SLOW_FSYNC = 0.05
SYNCS = 20
QUICK_EVENTS = 10_000
_TIME_ERROR = 5
"""What adjtimex(2) answers for a clock that nothing synchronizes."""
LIVE = timedelta(hours=12)
"""Images that come later than this after their acquisition are sent again, not live."""
AHEAD = timedelta(minutes=2)
BEHIND = timedelta(minutes=50)


def storage(settings: Settings) -> Iterator[Check]:
    """The folder: there, writable, one file system; room; and how fast it makes files durable."""
    root = settings.storage.path
    there = next(path for path in (root, *root.parents) if path.exists())
    try:
        with tempfile.TemporaryDirectory(dir=there, prefix=".doctor-") as folder:
            _link(root, Path(folder))
            seconds = _sync_seconds(Path(folder))
    except OSError as error:
        advice = (
            "spool and files must lie on one file system: mount nothing below storage.path"
            if error.errno == errno.EXDEV
            else f"let the user {os.geteuid()}, as whom this runs, write there"
        )
        yield Check("storage", State.FAIL, f"{there} cannot be used: {error.strerror}", advice)
        return
    made = "writable" if there == root else "made at the first start"
    yield Check("storage", State.OK, f"{root}: {made}")
    yield _space(settings, there)
    told = (
        f"{seconds * 1000:.1f} ms to make an image durable: at most {1 / seconds:.0f} images/s an association"
    )
    slow = seconds > SLOW_FSYNC
    advice = "senders wait for that with every image: use an SSD, or a controller with a safe write cache"
    yield Check("fsync", State.WARN if slow else State.OK, told, advice if slow else "")


def _link(root: Path, folder: Path) -> None:
    """Do what the intake does: link from the spool into the store."""
    spool, files = root / "spool" / "tmp", root / "files" / "00"
    source = (spool if spool.exists() else folder) / uuid.uuid4().hex
    target = (files if files.exists() else folder) / f"{source.name}.doctor"
    source.touch()
    try:
        target.hardlink_to(source)
    finally:
        source.unlink()
        target.unlink(missing_ok=True)


def _sync_seconds(folder: Path) -> float:
    """The median of a file's and its folder's fsync, as for each received object."""
    taken = []
    for number in range(SYNCS):
        path = folder / str(number)
        with path.open("wb") as file:
            file.write(bytes(100_000))
            file.flush()
            start = time.perf_counter()
            os.fsync(file.fileno())
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def _space(settings: Settings, there: Path) -> Check:
    least, free = settings.storage.min_free_gb, shutil.disk_usage(there).free / 1e9
    told = f"{free:.1f} GB free, storage.min_free_gb = {least:g}"
    advice = "make room, set storage.retention_days, or lower storage.min_free_gb"
    if free < least:
        return Check("free space", State.FAIL, f"{told}: every image is refused (0xA700)", advice)
    if free < 2 * least:
        return Check("free space", State.WARN, f"{told}: images are refused soon", advice)
    return Check("free space", State.OK, told)


def journal(database: Database) -> Iterator[Check]:
    """The database, its version and its pages, and the end of the audit log."""
    revision = database.revision
    if revision is None:
        yield Check("database", State.OK, f"{database.name}: made at the first start")
        return
    if revision > REVISION:
        found = (
            f"{database.name} was written by a newer pacs-node: schema {revision}, this one knows {REVISION}"
        )
        advice = "install that version again, or restore the backup that was made before it"
        yield Check("database", State.FAIL, found, advice)
        return
    older = f", brought from {revision} to {REVISION} at the next start" if revision < REVISION else ""
    yield Check("database", State.OK, f"{database.name}: reachable, schema {revision}{older}")
    if older:
        return
    if database.path:
        database.check_pages()
        yield Check("database pages", State.OK, "whole")
    count, problem = audit.verify(database, QUICK_EVENTS)
    if problem:
        advice = "keep the database as it is, and compare with the last export or backup"
        yield Check("audit log", State.FAIL, problem, advice)
    else:
        yield Check("audit log", State.OK, f"{count} events, the chain is whole at its end")


def processes(running: Sequence[RunningRole]) -> Iterator[Check]:
    """Which roles run."""
    told = ", ".join(f"{role.role} {role.address}".rstrip() for role in running if role.ready)
    missing = ", ".join(missing_roles(running))
    if missing:
        found = f"not running or not ready: {missing}" + (f"; ready: {told}" if told else "")
        yield Check("roles", State.WARN, found, "pacs-node serve")
    else:
        yield Check("roles", State.OK, f"ready: {told}")


def ports(settings: Settings, running: Sequence[RunningRole]) -> Iterator[Check]:
    """Whether the ports that we want are ours or free."""
    wanted = [("DICOM port", "receive", settings.node.host, settings.node.port)]
    if settings.web.enabled:
        wanted.append(("web port", "web", settings.web.host, settings.web.port))
    for what, role, host, port in wanted:
        ours = [one for one in running if one.role == role and one.host == socket.gethostname()]
        if not port or any(one.address.endswith(f":{port}") for one in ours):
            held = ours[0].address if ours else "any free one"
            yield Check(what, State.OK, f"held by our role {role}: {held}" if ours else held)
            continue
        try:
            with socket.create_server((host, port), family=_family(host)):
                yield Check(what, State.OK, f"{host}:{port} is free")
        except OSError as error:
            yield Check(what, State.FAIL, f"{host}:{port}: {error.strerror}", _advice(error, what, port))


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _advice(error: OSError, what: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"another program holds it (`ss -ltnp sport = :{port}` names it): end that, or take another port"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return "ports below 1024 need the capability CAP_NET_BIND_SERVICE: take 11112, or give it"
    return f"set the host of the {what} to an address of this machine, or to 0.0.0.0"


def received(settings: Settings, database: Database) -> Iterator[Check]:
    """Who sent last, and whether the images' times fit our clock."""
    newest = views.newest_images(database, 50)
    if not newest:
        advice = "does the PACS have a rule that forwards X-rays to us?"
        yield Check("received", State.WARN, "no X-ray was received yet", advice)
        return
    last = newest[0]
    when = datetime.fromtimestamp(last.received_at).astimezone()
    who = f"{last.calling_ae_title} ({last.address})"
    yield Check("received", State.OK, f"the last X-ray came at {when:%Y-%m-%d %H:%M} from {who}")
    yield _clock_of_images(settings, newest)


def _clock_of_images(settings: Settings, newest: Sequence[views.ReceivedImage]) -> Check:
    """DIMSE has no time of its own: what the modalities wrote is compared with when we received it."""
    files = FileStore(settings.storage.path)
    delays = []
    for image in newest:
        acquired = _acquired(files.path(image.sha256))
        if acquired:
            delay = datetime.fromtimestamp(image.received_at).astimezone() - acquired
            delays += [delay] if abs(delay) < LIVE else []
    if not delays:
        return Check("clock of the images", State.OK, "not known: no image came soon after its acquisition")
    told = f"{len(delays)} X-rays of the last {len(newest)}, times of acquisition against receipt"
    least = min(delays)
    minutes = round(abs(least).total_seconds() / 60)
    if least < -AHEAD:
        found = f"{told}: acquired up to {minutes} min in our future"
        advice = "our clock or time zone, or the modality's, is wrong: set both by NTP; see `date` here"
        return Check("clock of the images", State.FAIL, found, advice)
    if least > BEHIND and len(delays) > 2:
        found = f"{told}: none came sooner than {minutes} min after it"
        advice = "if the PACS forwards at once, our clock or time zone, or the modality's, is wrong"
        return Check("clock of the images", State.WARN, found, advice)
    return Check("clock of the images", State.OK, f"{told}: the soonest came {minutes} min after it")


def _acquired(path: Path) -> datetime | None:
    """When an image was acquired, in the time zone that it states, else in ours; None: it does not say."""
    tags = ["Acquisition", "Content"]
    keywords = [f"{tag}{part}" for tag in tags for part in ("Date", "Time")]
    wanted = ["AcquisitionDateTime", "Manufacturer", "TimezoneOffsetFromUTC", *keywords]
    try:
        header = dcmread(path, stop_before_pixels=True, specific_tags=list(wanted))
        if header.get("Manufacturer") == "pacs-node demo":
            # Its times are this machine's own.
            return None
        for tag in tags:
            date, at = (str(header.get(f"{tag}{part}") or "").strip() for part in ("Date", "Time"))
            if date and at:
                return _zoned(f"{date}{at[:6]}", header)
        moment = str(header.get("AcquisitionDateTime") or "")
        return _zoned(moment[:14], header) if moment else None
    except (OSError, ValueError, TypeError):
        return None


def _zoned(digits: str, header: Dataset) -> datetime:
    zone = str(header.get("TimezoneOffsetFromUTC") or "").strip()
    if zone:
        return datetime.strptime(digits + zone, "%Y%m%d%H%M%S%z")
    return datetime.strptime(digits, "%Y%m%d%H%M%S").astimezone()


def own_clock() -> Iterator[Check]:
    """Whether the kernel says that something (NTP, chrony, systemd-timesyncd) keeps this machine's clock."""
    # A struct timex of zeros asks and sets nothing; 64 longs are more than it has.
    state = ctypes.CDLL(None).adjtimex((ctypes.c_long * 64)())
    now = f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S %Z (UTC%z)}"
    if state == _TIME_ERROR:
        advice = "synchronize it by NTP (chrony or systemd-timesyncd); reports carry its times"
        yield Check("own clock", State.WARN, f"{now}, not synchronized", advice)
    else:
        yield Check("own clock", State.OK, f"{now}, synchronized")


def _problems(settings: Settings, database: Database) -> Iterator[Check]:
    """The problems that no other check looks for."""
    others = (ProblemKind.JOURNAL, ProblemKind.ROLE, ProblemKind.DISK, ProblemKind.DESTINATION)
    for problem in problems(settings, database, FileStore(settings.storage.path)):
        if problem.kind not in others:
            what, _, message = str(problem).partition(": ")
            yield Check(what, State(problem.severity), message, problem.advice)


def look(settings: Settings, database: Database) -> Iterator[Check]:
    """What the journal and the ports say; without a journal of this version, the ports alone."""
    running: list[RunningRole] = []
    if database.revision == REVISION:
        running = running_roles(database)
        yield from received(settings, database)
        yield from _problems(settings, database)
    yield from processes(running)
    yield from ports(settings, running)
