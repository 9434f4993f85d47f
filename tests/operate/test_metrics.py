"""The metrics on a real journal: what happened is counted once, and nothing that names a patient gets out."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse
from support.journal import Clock, Steps

from pacs_node.config import Destination, Settings, StorageSettings, ValidationSettings
from pacs_node.files import FileStore
from pacs_node.journal import commitments, deliveries, feedback, instances, processes
from pacs_node.journal.database import Database
from pacs_node.operate import housekeeping, validation
from pacs_node.operate.metrics import NodeMetrics
from pacs_node.records import (
    Analysis,
    Arrival,
    CommitmentReport,
    DeliveryState,
    Finding,
    ModelIdentity,
    RunningRole,
)

OPERATIONS = Path(__file__).resolve().parents[2] / "docs" / "operations.md"
NAME = "SCHADENBERG^THERESIA"

Read = Callable[[], dict[str, float]]


@pytest.fixture
def files(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "storage")


@pytest.fixture
def metrics(database: Database, files: FileStore) -> NodeMetrics:
    pacs = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=104)
    settings = Settings(destinations=(pacs,), storage=StorageSettings(path=files.root, min_free_gb=0.5))
    return NodeMetrics(settings, database, files)


@pytest.fixture
def read(metrics: NodeMetrics) -> Read:
    """The samples that a scrape gives: by name and labels, as they stand in the text."""

    def scrape() -> dict[str, float]:
        text = metrics.scrape()[0].decode()
        return {
            sample.name + "".join(f" {value}" for value in sample.labels.values()): sample.value
            for family in parse(text)
            for sample in family.samples
            if family.name != "pacsnode_disk_free_bytes"
        }

    return scrape


@pytest.fixture
def steps(database: Database, model: ModelIdentity, finding: Finding) -> Steps:
    return Steps(database, model, finding)


def test_a_study_is_counted_on_its_way(
    database: Database, clock: Clock, arrival: Callable[..., Arrival], steps: Steps, read: Read
) -> None:
    instances.register(database, [arrival("1.0", study_instance_uid="9.9")], 0.0)
    assert read()["pacsnode_instances RECEIVED"] == 1
    assert "pacsnode_received_objects_total DX" not in read(), "what was before is not counted"

    names = {"patient_name": NAME, "patient_id": NAME, "body_part": NAME, "modality": "DX"}
    instances.register(database, [arrival(f"1.{n}", size=500, **names) for n in (1, 2)], 5.0)
    clock.now += 5
    ours = arrival("8.8", "b" * 64, modality="SR", skip_reason="a result of ours")
    instances.register(database, [ours], 0.0)
    clock.now += 2
    found = read()
    assert found["pacsnode_received_objects_total DX"] == 2
    assert found["pacsnode_received_bytes_total DX"] == 1000
    assert found["pacsnode_queue_age_seconds instances"] == 7
    assert found["pacsnode_queue_age_seconds studies"] == 7
    steps.report(("pacs",))
    clock.now += 90
    steps.report(("pacs",))
    found = read()
    assert found["pacsnode_studies REPORTED"] == 2
    assert found["pacsnode_analyses_total test-model negative"] == 3
    assert found["pacsnode_finding_probability_bucket 0.1 test-model"] == 0
    assert found["pacsnode_finding_probability_bucket 0.2 test-model"] == 3
    assert found["pacsnode_stage_seconds_bucket 5.0 analyzed"] == 0
    assert found["pacsnode_stage_seconds_bucket 10.0 analyzed"] == 3
    assert found["pacsnode_stage_seconds_sum analyzed"] == 21
    assert found["pacsnode_stage_seconds_sum reported"] == 7 + 97
    assert found["pacsnode_reports_total NEGATIVE"] == 2
    assert found["pacsnode_deliveries pacs PENDING"] == 4
    assert found["pacsnode_outbox_age_seconds pacs"] == 90
    assert found["pacsnode_audit_events_total reported"] == 2

    claim = deliveries.claim_deliveries(database, "pacs", 9)
    assert claim
    for item in claim.items:
        deliveries.finish_delivery(
            database, claim.token, item, DeliveryState.SENT, 0xB000, "", commitment=True
        )
    begun = commitments.begin(database, "pacs", "2.25.1", 60)
    assert begun
    clock.now += 3
    committed = frozenset(item.sop_instance_uid for item in begun.objects)
    commitments.settle(database, CommitmentReport("2.25.1", committed, {}), lambda _: 0.0)
    claim = deliveries.claim_deliveries(database, "pacs", 1)
    assert claim
    (item,) = claim.items
    deliveries.finish_delivery(database, claim.token, item, DeliveryState.QUARANTINED, 0xC123, NAME)
    found = read()
    assert found["pacsnode_delivery_answers_total pacs 0xBxxx"] == 2
    assert found["pacsnode_delivery_answers_total pacs 0xCxxx"] == 1
    assert found["pacsnode_delivery_answers_total pacs none"] == 0
    assert found["pacsnode_deliveries pacs COMMITTED"] == 2
    assert found["pacsnode_attention QUARANTINED"] == 1
    assert found["pacsnode_stage_seconds_count sent"] == 2
    assert found["pacsnode_stage_seconds_sum committed"] == 6
    assert found == read(), "nothing is counted twice"


def test_images_without_an_answer_are_told_apart(
    database: Database, arrival: Callable[..., Arrival], model: ModelIdentity, read: Read
) -> None:
    read()
    instances.register(database, [arrival(f"1.{n}", modality=NAME[:16]) for n in range(3)], 0.0)
    claim = instances.claim_instances(database, 8)
    assert claim
    known = [{"failure": "cannot be decoded"}, {"failure": "unlike", "scope": 1.4}]
    told = [*known, {"failure": "body part CHEST", "skipped": True}]
    instances.finish_instances(
        database,
        claim.token,
        model,
        [
            replace(Analysis(item, None), **one)  # type: ignore[arg-type]
            for item, one in zip(claim.items, told, strict=True)
        ],
    )
    found = read()
    assert found["pacsnode_analyses_total test-model failed"] == 1
    assert found["pacsnode_analyses_total test-model out_of_scope"] == 2
    assert found["pacsnode_received_objects_total other"] == 3


def test_processes_tell_in_their_heartbeat_what_only_they_know(database: Database, read: Read) -> None:
    def beat(pid: int, role: str = "receive", **stats: float) -> None:
        processes.beat(database, RunningRole(role, "elsewhere", pid, "", ready=True, stats=stats))

    beat(1, associations_accepted=100, associations_open=1)
    assert read()["pacsnode_associations_total accepted"] == 0, "counted before we began"
    beat(1, associations_accepted=103, associations_open=2, refused_0xA700=1)
    beat(2, associations_accepted=5, associations_rejected=4, associations_open=1)
    beat(3, "worker", inference_images=8, inference_seconds=2, model_load_seconds=4, gpu_used_bytes=7)
    found = read()
    assert found["pacsnode_associations_total accepted"] == 8
    assert found["pacsnode_associations_total rejected"] == 4
    assert found["pacsnode_associations_open"] == 3
    assert found["pacsnode_store_refusals_total 0xA700"] == 1
    assert found["pacsnode_inference_seconds_total"] == 2
    assert found["pacsnode_gpu_memory_bytes used"] == 7
    assert found["pacsnode_model_load_seconds"] == 4
    assert (found["pacsnode_role_ready receive"], found["pacsnode_ready"]) == (2, 0)
    # Another process under the same number began anew.
    beat(1, associations_accepted=1)
    assert read()["pacsnode_associations_total accepted"] == 8


def test_jobs_and_the_last_validation(
    database: Database, clock: Clock, arrival: Callable[..., Arrival], steps: Steps, read: Read
) -> None:
    housekeeping.run(database, "backup", lambda: {"file": "a"})
    began = clock.now
    found = read()
    assert found["pacsnode_task_last_success_timestamp_seconds backup"] == began
    assert not any(name.startswith(("pacsnode_validation", "pacsnode_destination_up")) for name in found)

    instances.register(database, [arrival(f"1.{n}") for n in range(3)], 0.0)
    steps.report()
    labels = [
        feedback.Feedback(
            study_instance_uid="1.2", sop_instance_uid=f"1.{n}", label=feedback.Label.POSITIVE, who="anna"
        )
        for n in range(3)
    ]
    assert set(feedback.add(database, labels)) == {feedback.Receipt.ADDED}
    clock.now += 60
    housekeeping.run(database, "echo", lambda: {"asked": 1, "unreachable": {}})
    assert read()["pacsnode_destination_up pacs"] == 1
    deliveries.record_reach(database, "pacs", "no answer")
    validation.run(database, ValidationSettings(min_labels=3))
    found = read()
    assert found["pacsnode_task_last_success_timestamp_seconds backup"] == began
    assert found["pacsnode_destination_up pacs"] == 0
    assert found["pacsnode_feedback_total positive"] == 3
    assert found["pacsnode_validation_alarm"] == 1
    assert found["pacsnode_validation_value test-model sensitivity images"] == 0


def test_nothing_that_is_told_names_a_patient_and_the_text_is_well_formed(
    database: Database, arrival: Callable[..., Arrival], metrics: NodeMetrics
) -> None:
    instances.register(database, [arrival(patient_name=NAME, patient_id=NAME, modality=NAME[:16])], 0.0)
    text, content_type = metrics.scrape()
    assert content_type.startswith("text/plain")
    assert "SCHADENBERG" not in text.decode()
    openmetrics, content_type = metrics.scrape("application/openmetrics-text")
    assert content_type.startswith("application/openmetrics-text")
    assert openmetrics.endswith(b"# EOF\n")


def test_the_documents_table_is_what_is_exported(metrics: NodeMetrics) -> None:
    row = r"^\| `(pacsnode_\w+)(?:\{(.*?)\})?` \| (\w+) \|"
    documented = re.findall(row, OPERATIONS.read_text(), re.MULTILINE)
    suffixes = {"counter": "_total", "info": "_info"}
    families = [(one.name + suffixes.get(one.type, ""), one) for one in metrics.collect()]
    assert {(name, kind) for name, _, kind in documented} == {(name, one.type) for name, one in families}
    labels = {name: set(told.split(",")) - {""} for name, told, _ in documented}
    for name, family in families:
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == labels[name], name
