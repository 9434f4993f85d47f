"""What the pages say, and to whom."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.journal import Clock, Steps
from support.web.people import Door, door

from pacs_node.config import Destination, ModelSettings, ScheduleSettings, StorageSettings
from pacs_node.files import FileStore
from pacs_node.journal import audit, deliveries, feedback, instances, processes
from pacs_node.journal.database import Database
from pacs_node.journal.feedback import Feedback, Label
from pacs_node.journal.transaction import FIRST_HASH
from pacs_node.operate import housekeeping
from pacs_node.operate.problems import problems
from pacs_node.records import Arrival, AuditKind, DeliveryState, Finding, ModelIdentity, RunningRole

PACS = Destination(name="pacs", kind="stow", url="http://127.0.0.1:1/x", password="hunter3")
RENEWAL = {"HX-Request": "true", "X-Renewal": "1"}


@pytest.fixture
def database_kind() -> str:
    """The queries are tried on both by the journal's tests."""
    return "sqlite"


@pytest.fixture
def steps(database: Database, model: ModelIdentity, finding: Finding) -> Steps:
    return Steps(database, model, replace(finding, station="A", brightness=0.5))


@pytest.fixture
def receive(database: Database, arrival: Callable[..., Arrival]) -> Callable[..., None]:
    def one(uid: str, image: str = "1") -> None:
        who = {"patient_name": f"NAME{uid}^ANNA", "patient_id": f"ID-{uid}", "study_instance_uid": uid}
        instances.register(database, [arrival(f"{uid}.{image}", f"{uid}.{image}".rjust(64, "a"), **who)], 0)

    return one


@pytest.fixture
def node(database: Database, tmp_path: Path, users: Path) -> Iterator[Door]:
    """The application with a destination that keeps a password."""
    with door(database, tmp_path / "storage", users, destinations=(PACS,)) as served:
        yield served


def test_patients_are_for_those_who_may_see_them(node: Door, receive: Callable[..., None]) -> None:
    receive("2.1")
    for name, may_see in (("viewer", False), ("radiologist", True), ("admin", True)):
        client = node.enter(name)
        for path, headers in (("/", {}), ("/", RENEWAL), ("/?q=2.1", {}), ("/?state=OPEN", {})):
            answer = client.get(path, headers=headers)
            assert "2.1" in answer.text
            assert ("NAME2.1 ANNA" in answer.text, "ID-2.1" in answer.text) == (may_see, may_see)
        assert ("NAME2.1" in client.get("/?q=anna").text) == may_see
        assert ("No study matches." in client.get("/?q=anna").text) != may_see


def test_every_look_at_a_patient_is_written_down_once_a_session(
    node: Door, receive: Callable[..., None]
) -> None:
    receive("2.1")
    first, second, viewer = node.enter("radiologist"), node.enter("radiologist"), node.enter("viewer")
    for _ in range(2):
        first.get("/")
        first.get("/", headers=RENEWAL)
        viewer.get("/")
    assert node.events("patients_listed") == [{"who": "radiologist", "studies": ["2.1"]}]
    receive("2.2")
    receive("2.3")
    first.get("/", headers=RENEWAL)
    assert node.events("patients_listed")[1:] == [{"who": "radiologist", "studies": ["2.3", "2.2"]}]
    second.get("/?q=2.2")
    assert node.events("patients_listed")[2:] == [{"who": "radiologist", "studies": ["2.2"]}]


def test_the_list_says_what_it_does_not_know(
    node: Door, receive: Callable[..., None], steps: Steps, clock: Clock
) -> None:
    receive("2.1")
    client = node.enter("viewer")
    assert "waiting to be analyzed" in client.get("/").text
    steps.analyze()
    assert "waiting for the end of the quiet period" in client.get("/").text
    steps.report(destinations=("pacs",))
    text = client.get("/").text
    assert re.search(r"READY.*summary.*12 %", text, re.DOTALL)
    clock.now += 3000
    assert "for 50 min" in client.get("/").text
    receive("2.1", "9")
    assert "A new report is being made" in client.get("/").text


def test_parts_come_alone_and_the_address_keeps_the_filters(node: Door, receive: Callable[..., None]) -> None:
    receive("2.1")
    client = node.enter("viewer")
    asked = {"q": "", "state": "OPEN", "outcome": "", "from": "garbage", "before": "x"}
    part = client.get("/", params=asked, headers={"HX-Request": "true"})
    assert part.headers["hx-push-url"] == "/?state=OPEN&from=garbage&before=x"
    assert "<html" not in part.text
    assert 'hx-get="/?state=OPEN&amp;from=garbage&amp;before=x"' in part.text
    assert 'id="announcement" hx-swap-oob' in part.text
    said = re.search(r'"announced": "([^"]*)"', part.text)
    assert said
    renewed = client.get("/", params={"state": "OPEN", "announced": said[1]}, headers=RENEWAL)
    assert "hx-push-url" not in renewed.headers
    assert 'id="announcement"' not in renewed.text, "nothing new is to be said"
    assert "selected>OPEN" in client.get("/?state=OPEN").text


def test_alarms_come_and_go(
    node: Door, receive: Callable[..., None], steps: Steps, database: Database, tmp_path: Path, clock: Clock
) -> None:
    files = FileStore(tmp_path / "storage")

    def now() -> list[str]:
        return [str(problem) for problem in problems(node.settings, database, files)]

    for role in (*processes.ROLES, "web"):
        processes.beat(database, RunningRole(role, "elsewhere", 1, "", ready=role != "worker"))
    assert now() == ["role worker: not running or not ready"]
    processes.beat(database, RunningRole("worker", "elsewhere", 1, "", ready=True))
    assert now() == []
    assert "No alarms" in node.enter("viewer").get("/").text
    deliveries.record_reach(database, "pacs", "pacs: connection refused")
    deliveries.record_reach(database, "gone", "gone: connection refused")
    clock.now += 1
    with pytest.raises(OSError, match="disk"):
        housekeeping.run(database, "backup", lambda: (_ for _ in ()).throw(OSError("disk")))
    receive("2.1")
    steps.report(destinations=("pacs", "gone"))
    claim = deliveries.claim_deliveries(database, "pacs", 10)
    assert claim is not None
    for item in claim.items:
        deliveries.finish_delivery(database, claim.token, item, DeliveryState.QUARANTINED, 0xC000, "")
    database.audit(AuditKind.VALIDATION_ALARM, checks=[])
    assert now() == [
        "destination gone: 2 results for a destination that is no longer configured",
        "destination pacs: 2 results refused for good, or given up",
        "job backup: the last run failed: unexpected OSError",
        "destination pacs: unreachable: connection refused",
        "validation: figures outside their limits",
    ]
    shown = node.enter("viewer").get("/").text
    assert [text for text in now() if text not in shown] == []
    deliveries.record_reach(database, "pacs", None)
    housekeeping.run(database, "backup", dict)
    database.audit(AuditKind.VALIDATION_PASSED, checks=[])
    assert now() == [
        "destination gone: 2 results for a destination that is no longer configured",
        "destination pacs: 2 results refused for good, or given up",
    ]
    full = node.settings.model_copy(update={"storage": StorageSettings(min_free_gb=1e9)})
    assert "disk: less than `min_free_gb` is free: nothing is received" in map(
        str, problems(full, database, files)
    )


def test_an_administrator_tries_again_or_gives_up_with_a_reason(
    node: Door, receive: Callable[..., None], steps: Steps, database: Database
) -> None:
    receive("2.1")
    steps.report(destinations=("pacs",))
    claim = deliveries.claim_deliveries(database, "pacs", 10)
    assert claim is not None
    for item in claim.items:
        deliveries.finish_delivery(database, claim.token, item, DeliveryState.QUARANTINED, 0xC000, "no")
    admin, viewer = node.enter("admin"), node.enter("radiologist")
    assert "/system/quarantine/retry" in admin.get("/system").text
    shown = viewer.get("/system").text
    assert "0xC000" in shown
    assert "<form" not in shown.split("</header>")[1]
    first, second = (item.id for item in claim.items)
    done = admin.post("/system/quarantine/retry", data={"which": str(first)})
    assert (done.status_code, done.headers["location"]) == (303, "/system?retry=1#quarantine")
    assert "1 result will be retried." in admin.get("/system?retry=1").text
    assert node.events("delivery_retried")[0]["who"] == "admin"
    assert admin.post("/system/quarantine/retry", data={"which": str(first)}).status_code == 404
    nothing = admin.post("/system/quarantine/discard", data={"which": str(second), "reason": "  "})
    assert nothing.status_code == 400
    given_up = {"which": str(second), "reason": "the PACS has it"}
    assert admin.post("/system/quarantine/discard", data=given_up).status_code == 303
    (event,) = node.events("delivery_discarded")
    assert (event["who"], event["reason"]) == ("admin", "the PACS has it")
    assert admin.post("/system/quarantine/delete", data={"which": "all"}).status_code == 404
    assert admin.post("/system/quarantine/discard", data={}).status_code == 400


def test_the_configuration_is_for_administrators_and_tells_no_secret(node: Door) -> None:
    for name in ("viewer", "radiologist"):
        assert "Configuration" not in node.enter(name).get("/system").text
    text = node.enter("admin").get("/system").text
    assert "[[destinations]]" in text
    assert "hunter" not in text
    assert "hunter" not in node.enter("viewer").get("/system").text


def test_the_system_page_tells_when_jobs_are_due_and_what_came_of_them(
    node: Door, database: Database
) -> None:
    housekeeping.run(database, "disk", lambda: {"free_gb": 12.3456, "low": False})
    processes.beat(
        database, RunningRole("worker", "gpu-box", 7, "m", ready=True, stats={"gpu_memory_gb": 3.25})
    )
    text = node.enter("viewer").get("/system").text
    assert ScheduleSettings().disk in text
    assert "free_gb 12.3" in text
    assert "gpu memory gb 3.25" in text
    assert "not installed" not in text
    assert audit.head(database)[1] not in ("", FIRST_HASH)
    assert re.search(r"[0-9a-f]{64}", text)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the shipped package whose card tries to smuggle something in."""
    folder = tmp_path / "package"
    shutil.copytree(ModelSettings().path, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    card = folder / "CARD.md"
    evil = "\n<script>alert(1)</script> <img src=x onerror=alert(2)> [a](javascript:alert(3)) ![x](http://evil/x)\n"
    evil += "[b](model.toml) [c](https://example.org) ![d](../../users.toml)\n"
    card.write_text(card.read_text(encoding="utf-8") + evil, encoding="utf-8")
    return folder


def test_the_model_page_shows_the_card_and_nothing_else_of_the_folder(
    database: Database, tmp_path: Path, users: Path, package: Path, clock: Clock
) -> None:
    with door(database, tmp_path / "storage", users, model=ModelSettings(path=package)) as node:
        client = node.enter("viewer")
        text = client.get("/model").text
        assert "Fracture SqueezeNet 2.1.0" in text
        assert "<td>0.946 (0.922 to 0.967)</td>" in text
        assert '<img class="figure" src="/model/roc.png" alt="ROC curves">' in text
        assert '<a href="https://example.org">c</a>' in text
        for smuggled in (
            "<script>alert",
            "<img src=x",
            'href="javascript',
            "evil/x",
            "users.toml",
            'href="model.toml',
        ):
            assert smuggled not in text.replace('content="', "")
        for name in ("roc.png", "reliability.png", "metrics.json"):
            assert client.get(f"/model/{name}").status_code == 200
        for name in ("model.toml", "CARD.md", "..%2Fusers.toml", "weights.safetensors"):
            assert client.get(f"/model/{name}").status_code in (303, 404)
            assert b"argon2" not in client.get(f"/model/{name}").content
        (package / "model.toml").unlink()
        (package / "CARD.md").unlink()
        (package / "metrics.json").write_text("no JSON", encoding="utf-8")
        text = client.get("/model").text
        assert "contains no readable <code>model.toml</code>" in text
        assert "The package has no <code>CARD.md</code>" in text


def test_the_model_page_shows_how_it_does_here(
    node: Door, database: Database, receive: Callable[..., None], steps: Steps, clock: Clock
) -> None:
    clock.now = 1_760_000_000.0
    client = node.enter("viewer")
    assert "has not run yet" in client.get("/model").text
    assert "No image was analyzed" in client.get("/model").text
    receive("2.1")
    steps.report()
    feedback.add(database, [Feedback(label=Label.NEGATIVE, who="anna", study_instance_uid="2.1")])
    check = {"model": "m", "where": "studies", "what": "sensitivity", "n": 31, "limit": 0.7}
    check |= {"value": 0.512, "low": 0.4, "high": 0.62, "verdict": "alarm"}
    told: dict[str, Any] = {
        "verdict": "alarm",
        "days": 30,
        "compared": 31,
        "uncertain": 0,
        "unanswered": 0,
        "checks": [check],
    }
    database.audit(AuditKind.VALIDATION_ALARM, **told)
    text = client.get("/model").text
    assert "Outside the limits" in text
    assert "0.400 to 0.620" in text
    assert re.search(r"Labels: negative</dt><dd>1<", text)
    assert re.search(r"<td>2025-10-0\d</td><td class=\"c-number\">1</td>", text)
