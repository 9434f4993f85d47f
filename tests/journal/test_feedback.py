"""Labels: recording them, listing them, and reading them from CSV files."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.journal import Clock, Steps

from pacs_node.errors import InputError
from pacs_node.journal import audit, feedback, instances
from pacs_node.journal.database import Database
from pacs_node.journal.feedback import Feedback, Label, Receipt
from pacs_node.records import Arrival, Finding, ModelIdentity


@pytest.fixture
def analyzed(
    database: Database, arrival: Callable[..., Arrival], model: ModelIdentity, finding: Finding
) -> Database:
    """Study 1.2 with a negative image 1.1 (0.1234) and a positive one 1.3 (0.9), and 5.2, not analyzed."""
    instances.register(database, [arrival("1.1", "a")], 0)
    Steps(database, model, finding).analyze()
    instances.register(database, [arrival("1.3", "b")], 0)
    Steps(database, model, replace(finding, probability=0.9, positive=True)).analyze()
    instances.register(database, [arrival("5.2", "c", study_instance_uid="5", skip_reason="no X-ray")], 0)
    return database


def give(
    label: Label = Label.NEGATIVE, study: str = "1.2", image: str | None = None, **more: object
) -> Feedback:
    values = {"label": label, "who": "Dr. Li", "study_instance_uid": study, "sop_instance_uid": image}
    return Feedback(**(values | more))  # type: ignore[arg-type]


def test_labels_of_one_study_can_be_listed(analyzed: Database) -> None:
    feedback.add(analyzed, [give(), give(study="5"), give(image="1.3", label=Label.POSITIVE)])
    assert [label.sop_instance_uid for label in feedback.every(analyzed, study="1.2")] == [None, "1.3"]
    assert len(feedback.every(analyzed)) == 3
    assert feedback.every(analyzed, study="7") == []


def test_a_label_is_kept_with_the_finding_of_its_time(
    analyzed: Database, model: ModelIdentity, clock: Clock
) -> None:
    region = ((1.0, 2.0), (3.0, 4.5), (5.0, 6.0))
    given = [
        give(Label.POSITIVE, image="1.1", region=region, comment="Mr. X fell", at=clock.now - 5),
        give(Label.NEGATIVE),
        give(Label.NEGATIVE, study="", image="1.3", at=clock.now + 1),
        give(Label.POSITIVE, study="5"),
    ]
    assert feedback.add(analyzed, given) == [Receipt.ADDED] * 4
    kept = feedback.every(analyzed)
    assert [(label.sop_instance_uid, label.probability, label.positive) for label in kept] == [
        ("1.1", 0.1234, False),
        (None, 0.9, True),
        (None, None, None),
        ("1.3", 0.9, True),
    ]
    assert kept[0].region == region
    assert (kept[0].model_id, kept[0].model_key, kept[0].recorded_at) == (model.id, model.key, clock.now)
    assert kept[3].study_instance_uid == "1.2"
    events = [event for event in audit.events(analyzed) if event.event == "feedback"]
    assert [event.details["probability"] for event in events] == [0.1234, 0.9, 0.9, None]
    assert "Mr. X" not in json.dumps([event.details for event in events])
    assert audit.verify(analyzed)[1] is None


def test_a_label_is_compared_with_the_newest_model(
    analyzed: Database, model: ModelIdentity, finding: Finding, arrival: Callable[..., Arrival]
) -> None:
    other = replace(model, id="other", threshold=0.05)
    instances.register(analyzed, [arrival("1.4", "d")], 0)
    Steps(analyzed, other, replace(finding, probability=0.2)).analyze()
    feedback.add(analyzed, [give(), give(image="1.1")])
    whole, image = feedback.every(analyzed)
    assert (whole.model_id, whole.probability) == ("other", 0.2)
    assert (image.model_id, image.probability) == (model.id, 0.1234)


def test_known_labels_and_unknown_studies_are_reported(analyzed: Database) -> None:
    given = [
        give(),
        give(),
        give(study="9"),
        give(image="5.2"),
        give(image="1.1"),
        give(study="", image="1.1", source="again.csv"),
    ]
    first = [Receipt.ADDED, Receipt.KNOWN, *[Receipt.UNKNOWN] * 2, Receipt.ADDED, Receipt.KNOWN]
    assert feedback.add(analyzed, given, dry_run=True) == first
    assert feedback.every(analyzed) == []
    assert feedback.add(analyzed, given) == first
    again = feedback.add(analyzed, given)
    assert again == [Receipt.KNOWN, Receipt.KNOWN, *[Receipt.UNKNOWN] * 2, Receipt.KNOWN, Receipt.KNOWN]
    assert len(feedback.every(analyzed)) == 2


def test_the_newest_label_counts_and_older_ones_stay(analyzed: Database, clock: Clock) -> None:
    feedback.add(analyzed, [give(Label.POSITIVE)])
    clock.now += 10
    feedback.add(analyzed, [give(Label.NEGATIVE), give(Label.UNCERTAIN, image="1.1", at=clock.now - 20)])
    assert [label.label for label in feedback.current(analyzed)] == [Label.UNCERTAIN, Label.NEGATIVE]
    assert [label.label for label in feedback.every(analyzed)] == [
        Label.UNCERTAIN,
        Label.POSITIVE,
        Label.NEGATIVE,
    ]
    assert [label.label for label in feedback.current(analyzed, clock.now)] == [Label.NEGATIVE]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([(Label.NEGATIVE, None)], {"1.1": "negative", "1.3": "negative"}),
        ([(Label.POSITIVE, None)], {}),
        ([(Label.POSITIVE, None), (Label.POSITIVE, "1.3")], {"1.3": "positive"}),
        ([(Label.NEGATIVE, None), (Label.POSITIVE, "1.3")], {"1.1": "negative", "1.3": "positive"}),
        ([(Label.NEGATIVE, "1.1"), (Label.UNCERTAIN, "1.3")], {"1.1": "negative"}),
    ],
)
def test_which_images_a_label_of_a_study_applies_to(
    analyzed: Database, given: list[tuple[Label, str | None]], expected: dict[str, str]
) -> None:
    feedback.add(analyzed, [give(label, image=image) for label, image in given])
    rows = feedback.labelled_images(analyzed)
    assert {image: label for image, label, _ in rows} == expected
    assert len({group for *_, group in rows}) <= 1


def test_labels_of_a_csv_file_keep_their_line_numbers(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(
        "study_instance_uid,sop_instance_uid,label,who,when,comment\n"
        "1.2,,Positive,Dr. Wu,2026-03-01T14:30:00+01:00,\n"
        ',1.3, negative ,,,"plain, I think"\n',
        encoding="utf-8-sig",
    )
    (first, label), (second, other) = feedback.read_csv(path, "Dr. Li")
    assert (first, second) == (2, 3)
    assert (label.label, label.who, label.at, label.source) == (
        "positive",
        "Dr. Wu",
        1772371800.0,
        "labels.csv",
    )
    assert (other.who, other.sop_instance_uid, other.comment) == ("Dr. Li", "1.3", "plain, I think")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("study_instance_uid,label\n1.2,broken\n,positive\n", ["csv:2: label is 'broken'", "csv:3: neither"]),
        ("study_instance_uid,label\n1.2,positive\n", ["csv:2: nobody is named"]),
        ("study_instance_uid,label,who\n1.2,positive,Li,yes\n", ["csv:2: more values"]),
        ("study_instance_uid,label,when\n1.2,positive,yesterday\n", ["csv:2: when is 'yesterday'"]),
        ("study_instance_uid,label,when\n1.2,positive,9026-01-01\n", ["csv:2: when is", "future"]),
        ("label,who\npositive,Li\n", ["columns must be"]),
        ("study_instance_uid,label,patient_name\n", ["columns must be"]),
        ("study_instance_uid,label\n1.2,\xff\n", ["UTF-8"]),
    ],
)
def test_a_wrong_row_is_reported_with_its_line(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(InputError) as error:
        feedback.read_csv(path, "Li" if "when" in text or "\xff" in text else None)
    for word in words:
        assert word in str(error.value)
