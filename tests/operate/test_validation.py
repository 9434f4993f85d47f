"""Whether labels that contradict, and images that changed, raise an alarm, and nothing else does."""

import csv
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import phantom
from support.bench import Bench
from support.brightness import Brightness
from support.journal import Clock

from pacs_node.config import ValidationSettings
from pacs_node.journal import audit, feedback, instances
from pacs_node.journal.database import Database
from pacs_node.journal.feedback import Feedback, Label, Receipt
from pacs_node.operate import validation
from pacs_node.operate.validation import ValidationCheck, Verdict
from pacs_node.records import Analysis, Arrival, Finding, ModelIdentity
from pacs_node.training import dataset

Say = Callable[..., list[str]]


@pytest.fixture
def say(database: Database, arrival: Callable[..., Arrival], model: ModelIdentity, finding: Finding) -> Say:
    """Have the model say these probabilities, each of an image of a study of its own; their studies."""
    uids: list[str] = []

    def analyzed(
        scores: Sequence[float], station: str = "A", brightness: float = 0.5, of: ModelIdentity = model
    ) -> list[str]:
        new = [f"7.{len(uids) + number}" for number in range(len(scores))]
        uids.extend(new)
        instances.register(database, [arrival(f"{uid}.1", uid, study_instance_uid=uid) for uid in new], 0)
        claim = instances.claim_instances(database, len(new))
        assert claim is not None
        same = replace(finding, station=station, brightness=brightness)
        analyses = [
            Analysis(instance, replace(same, probability=score, positive=score >= 0.5))
            for instance, score in zip(claim.items, scores, strict=True)
        ]
        assert instances.finish_instances(database, claim.token, of, analyses) == len(new)
        return new

    return analyzed


def label(database: Database, studies: Sequence[str], *labels: Label, images: bool = False) -> None:
    given = [
        Feedback(
            label=labels[number % len(labels)],
            who="Li",
            study_instance_uid=uid,
            sop_instance_uid=f"{uid}.1" if images else None,
        )
        for number, uid in enumerate(studies)
    ]
    assert set(feedback.add(database, given)) == {Receipt.ADDED}


def check(found: validation.Validated, what: str, where: str) -> ValidationCheck:
    (one,) = [one for one in found.checks if (one.what, one.where) == (what, where)]
    return one


def test_sensitivity_and_specificity_have_wilson_intervals_and_limits(database: Database, say: Say) -> None:
    studies = say([0.9, 0.1] * 15 + [0.1] * 25)
    label(database, studies[:30], Label.POSITIVE)
    label(database, studies[30:], Label.NEGATIVE)
    found = validation.run(database, ValidationSettings())
    # n = 30, p = 1/2, z = 1.96: 1/2 -+ z / (n + z^2) * sqrt(n/4 + z^2/4)
    sensitivity = check(found, "sensitivity", "studies")
    assert (sensitivity.n, sensitivity.value, sensitivity.verdict) == (30, 0.5, Verdict.ALARM)
    assert (sensitivity.low, sensitivity.high) == pytest.approx((0.3315, 0.6685), abs=1e-4)
    specificity = check(found, "specificity", "studies")
    assert (specificity.n, specificity.value, specificity.verdict) == (25, 1.0, Verdict.PASSED)
    assert found.verdict == Verdict.ALARM
    event = validation.last(database)
    assert event is not None
    assert event.event == "validation_alarm"
    assert event.details["checks"][0]["value"] == 0.5
    # The interval reaches up to 0.6685: a limit below that is not broken beyond doubt.
    assert validation.run(database, ValidationSettings(min_sensitivity=0.66)).verdict == Verdict.PASSED
    assert [e.event for e in audit.events(database)][-1] == "validation_passed"


def test_images_and_studies_and_models_are_kept_apart(
    database: Database, say: Say, model: ModelIdentity
) -> None:
    label(database, say([0.9] * 3), Label.POSITIVE)
    label(database, say([0.9] * 4), Label.POSITIVE, images=True)
    label(database, say([0.9] * 5, of=replace(model, id="other", threshold=0.4)), Label.POSITIVE)
    found = validation.run(database, ValidationSettings())
    counted = {(one.model, one.where): one.n for one in found.checks if one.what == "sensitivity"}
    assert counted == {("test-model", "studies"): 3, ("test-model", "images"): 4, ("other", "studies"): 5}


def test_what_cannot_be_judged_is_called_too_few(
    database: Database, say: Say, arrival: Callable[..., Arrival]
) -> None:
    label(database, say([0.1] * 19), Label.POSITIVE)
    label(database, say([0.1] * 2), Label.UNCERTAIN)
    instances.register(database, [arrival("9.1", "x", study_instance_uid="9")], 0)
    label(database, ["9"], Label.POSITIVE)
    found = validation.run(database, ValidationSettings())
    assert (found.verdict, found.compared, found.uncertain, found.unanswered) == ("too_few", 19, 2, 1)
    assert check(found, "sensitivity", "studies").verdict == Verdict.TOO_FEW
    assert check(found, "score", "station A").value is None
    assert validation.run(database, ValidationSettings(min_labels=19)).verdict == Verdict.ALARM


def test_labels_of_before_the_window_and_corrected_ones_do_not_count(
    database: Database, say: Say, clock: Clock
) -> None:
    studies = say([0.9] * 40)
    label(database, studies[:20], Label.NEGATIVE)
    clock.now += 31 * validation.DAY
    label(database, studies[20:], Label.NEGATIVE)
    clock.now += 1
    label(database, studies[20:], Label.POSITIVE)
    found = validation.run(database, ValidationSettings())
    assert (found.compared, found.verdict) == (20, Verdict.PASSED)


def test_a_station_that_drifts_raises_an_alarm_and_one_that_does_not_none(
    database: Database, say: Say, clock: Clock
) -> None:
    low, high = np.linspace(0.05, 0.45, 60).tolist(), np.linspace(0.55, 0.95, 60).tolist()
    say([*low, *high[::6]], station="A")
    say(low, station="B", brightness=0.5)
    say(low, station="C")
    clock.now += 40 * validation.DAY
    say([*low[::2], *high[::2]], station="A")
    say(low, station="B", brightness=0.6)
    say(low[:49], station="C")
    say(low, station="D")
    found = validation.run(database, ValidationSettings())
    verdicts = {(one.where[-1], one.what): str(one.verdict) for one in found.checks}
    assert verdicts == {
        ("A", "score"): "alarm",
        ("A", "brightness"): "passed",
        ("A", "positive rate"): "alarm",
        ("B", "score"): "passed",
        ("B", "brightness"): "alarm",
        ("B", "positive rate"): "passed",
        **{
            (station, what): "too_few"
            for station in "CD"
            for what in ("score", "brightness", "positive rate")
        },
    }
    # 30 of 60 instead of 10 of 70.
    assert check(found, "positive rate", "station A").value == pytest.approx(1 / 2 - 1 / 7)
    assert check(found, "score", "station B").value == 0
    assert validation.run(database, ValidationSettings(max_drift=1)).verdict == Verdict.PASSED


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pacs_node", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_labels_that_contradict_the_node_raise_the_alarm(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[study]\nquiet_seconds = 0\n[validation]\nmin_labels = 4\n")
    # A threshold that no image reaches: all are called negative.
    bench = Bench(tmp_path / "storage", Brightness(threshold=1.0))
    bench.clock.now = time.time()
    images = [phantom.dataset(seed, rows=160, columns=128) for seed in range(4)]
    for image in images:
        image.StationName = "ROOM1"
    bench.receive(*images)
    bench.work()
    rows = [
        "sop_instance_uid,label",
        *(f"{image.SOPInstanceUID},positive" for image in images),
        "1.2.3,positive",
    ]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    imported = run(tmp_path, "feedback", "import", "labels.csv", "--by", "Dr. Li")
    assert imported.returncode == 0, imported.stderr
    assert "line 6: 1.2.3 was never received" in imported.stdout
    assert "4 added, 0 already known, 1 never received" in imported.stdout
    again = json.loads(run(tmp_path, "feedback", "import", "labels.csv", "--by", "Dr. Li", "--json").stdout)
    assert (again["added"], again["known"], again["unknown"]) == (0, 4, 1)
    validated = run(tmp_path, "validate")
    assert validated.returncode == 1, validated.stderr
    assert "alarm" in validated.stdout
    event = validation.last(bench.database)
    assert event is not None
    assert event.event == "validation_alarm"
    checks = {(one["where"], one["what"]): one for one in event.details["checks"]}
    assert checks["images", "sensitivity"]["value"] == 0
    assert checks["station ROOM1", "brightness"]["n"] == 4
    exported = run(tmp_path, "feedback", "export").stdout
    assert [row["label"] for row in csv.DictReader(io.StringIO(exported))] == ["1"] * 4
    labels = tmp_path / "training.csv"
    # So few are not divided; whoever has more may leave the splits to `load`.
    head, *rows = exported.splitlines()
    labels.write_text("\n".join([f"{head},split", *(f"{row},test" for row in rows)]))
    samples = dataset.load(bench.settings.storage.path / "files", labels=labels)
    assert [sample.positive for sample in samples] == [True] * 4
    bench.close()
