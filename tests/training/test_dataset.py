"""Data sets of all three kinds give the same samples, and say what is wrong with them by its line."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from support import phantom
from support.pictures import picture, save, write

from pacs_node.analyze import decode, pixels
from pacs_node.errors import InputError
from pacs_node.training import augment, dataset
from pacs_node.training.dataset import Mark


@pytest.fixture
def dicom(tmp_path: Path) -> Path:
    """Three images of two patients, one of them inverted, and one image that the table does not name."""
    for seed, photometric in ((1, "MONOCHROME2"), (2, "MONOCHROME1"), (3, "MONOCHROME2"), (4, "MONOCHROME2")):
        image = phantom.dataset(seed, rows=64, columns=64, photometric=photometric)  # type: ignore[arg-type]
        image.PatientID = "secret-1" if seed < 3 else "secret-2"
        image.StationName = f"ROOM{seed}"
        image.save_as(tmp_path / ("1.2.840.2" if seed == 2 else f"{seed}.dcm"), enforce_file_format=True)
    return tmp_path


def uid(path: Path) -> str:
    return str(decode.read(path).header.SOPInstanceUID)


def test_a_manifest(tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png", picture(1))
    save(tmp_path / "images" / "b.png", picture(2))
    header = ["image", "split", "fractured", "fracture_count", "group", "anatomy"]
    write(
        tmp_path / "manifest.csv",
        [header, ["a.png", "train", 1, 1, 7, "hand"], ["b.png", "val", 0, 0, 8, "leg"]],
    )
    drawn = {"bbox": [1, 2, 3.5, 4], "polygon": [1, 2, 4.5, 2, 3, 6]}
    (tmp_path / "regions.json").write_text(json.dumps({"a.png": [drawn, {"bbox": [0, 0, 2, 1]}]}))
    first, second = dataset.load(tmp_path)
    assert first.path == tmp_path / "images" / "a.png"
    assert (first.split, first.positive, first.group) == ("train", True, "7")
    assert first.traits == {"anatomy": "hand"}
    assert first.marks == (
        Mark((1, 2, 3.5, 4), ((1, 2), (4.5, 2), (3, 6))),
        Mark((0, 0, 2, 1), ((0, 0), (2, 0), (2, 1), (0, 1))),
    )
    assert (second.positive, second.marks) == (False, ())
    assert dataset.load(tmp_path, "val") == [second]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a.png,train,1,"], r"manifest\.csv:2: no value for group"),
        (["a.png,train,1,1", ",train,0,1"], r"manifest\.csv:3: no value for image or file or sop"),
        (["a.png,train,,1"], r"manifest\.csv:2: no value for label"),
        (["a.png,train,maybe,1"], r"manifest\.csv:2: unclear whether 'maybe' is positive"),
        (["a.png,dev,1,1"], r"manifest\.csv:2: split is 'dev'; it must be one of train, val, test"),
        (["a.png,train,1,1", "gone.png,train,1,1"], r"manifest\.csv:3: image gone\.png is not in"),
        (["a.png,train,1,1", "a.png,,1,1"], "1 rows without a split"),
        ([], "no images"),
    ],
)
def test_a_bad_row_is_named_by_its_line(rows: list[str], message: str, tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png", picture(1))
    (tmp_path / "manifest.csv").write_text("\n".join(["image,split,fractured,group", *rows]))
    with pytest.raises(InputError, match=message):
        dataset.load(tmp_path)


def test_a_bad_mark_is_named(tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png", picture(1))
    (tmp_path / "manifest.csv").write_text("image,split,label,group\na.png,train,1,1\n")
    (tmp_path / "regions.json").write_text('{"a.png": [{"bbox": [1, 2]}]}')
    with pytest.raises(InputError, match=r"must have bbox: \[left, top, width, height\]"):
        dataset.load(tmp_path)


def test_a_folder_for_each_class_in_each_split(tmp_path: Path) -> None:
    for number, split in enumerate(dataset.SPLITS):
        save(tmp_path / split / "Fractured" / "deep" / "1.png", picture(2 * number))
        save(tmp_path / split / "not_fractured" / "2.jpg", picture(2 * number + 1))
    (tmp_path / "train" / "Fractured" / "notes").write_text("no image")
    samples = dataset.load(tmp_path)
    assert Counter((sample.split, sample.positive) for sample in samples) == {
        (split, positive): 1 for split in dataset.SPLITS for positive in (True, False)
    }
    assert len({sample.group for sample in samples}) == 6


def test_a_class_that_nobody_knows_must_be_named(tmp_path: Path) -> None:
    for split in dataset.SPLITS:
        save(tmp_path / split / "effusion" / "1.png", picture(1))
        save(tmp_path / split / "dry" / "1.png", picture(2))
    with pytest.raises(InputError, match="unclear whether 'dry' is positive; name the positive class"):
        dataset.load(tmp_path)
    found = dataset.load(tmp_path, "test", positive="effusion")
    assert [(sample.path.parent.name, sample.positive) for sample in found] == [
        ("dry", False),
        ("effusion", True),
    ]


def test_the_labels_of_another_finding_are_understood(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / "images" / f"{number}.png", picture(number))
    rows = ["0.png,train,Effusion,1", "1.png,val,no-effusion,2", "2.png,test,dry,3"]
    (tmp_path / "manifest.csv").write_text("\n".join(["image,split,effusion,group", *rows]))
    samples = dataset.load(tmp_path, names=("dry", "effusion"))
    assert [(sample.positive, sample.traits) for sample in samples] == [(True, {}), (False, {}), (False, {})]
    with pytest.raises(InputError, match="no value for label"):
        dataset.load(tmp_path)


def test_splits_are_drawn_with_copies_together(tmp_path: Path) -> None:
    for number in range(60):
        image = picture(number)
        folder = tmp_path / ("fractured" if number % 3 == 0 else "not fractured")
        save(folder / f"{number}.png", image)
        if number % 2:
            save(folder / f"{number}-turned.png", np.rot90(image).copy())
    samples = dataset.load(tmp_path)
    split_of = {sample.path.stem: sample.split for sample in samples}
    group_of = {sample.path.stem: sample.group for sample in samples}
    for number in range(1, 60, 2):
        assert split_of[str(number)] == split_of[f"{number}-turned"]
        assert group_of[str(number)] == group_of[f"{number}-turned"]
    assert len(set(group_of.values())) == 60
    count = Counter(sample.split for sample in samples)
    positive = Counter(sample.split for sample in samples if sample.positive)
    assert (count["train"], count["val"], count["test"]) == pytest.approx((63, 13.5, 13.5), abs=2)
    assert (positive["train"], positive["val"], positive["test"]) == pytest.approx((21, 4.5, 4.5), abs=2)
    assert dataset.load(tmp_path) == samples
    assert dataset.load(tmp_path, seed=1) != samples


def test_too_few_images_to_draw_splits_from(tmp_path: Path) -> None:
    for number in range(4):
        save(tmp_path / ("fractured" if number % 2 else "normal") / f"{number}.png", picture(number))
    with pytest.raises(InputError, match="2 positive images of 4 in 4 groups are too few"):
        dataset.load(tmp_path)


def test_dicom_with_a_table_of_labels(dicom: Path, tmp_path: Path) -> None:
    write(
        dicom / "labels.csv",
        [
            ["sop_instance_uid", "file", "label", "split"],
            [uid(dicom / "1.dcm"), "", "fractured", "train"],
            [uid(dicom / "1.2.840.2"), "", "normal", "train"],
            ["", "3.dcm", "1", "test"],
        ],
    )
    first, second, third = dataset.load(dicom)
    assert [sample.path.name for sample in (first, second, third)] == ["1.dcm", "1.2.840.2", "3.dcm"]
    assert [sample.positive for sample in (first, second, third)] == [True, False, True]
    assert first.group == second.group != third.group
    assert "secret" not in repr((first, second, third))
    assert (second.traits["StationName"], second.traits["Modality"]) == ("ROOM2", "DX")
    served = pixels.prepare(decode.read(second.path)).display
    np.testing.assert_array_equal(dataset.display(second.path), served)
    np.testing.assert_array_equal(
        augment.square(second, 32, (1.0, 99.0)).image,
        np.round(pixels.letterbox(served, 32, (1.0, 99.0))[0] * 255),
    )


def test_a_table_elsewhere_with_groups_of_its_own(dicom: Path) -> None:
    table = dicom / "mine.csv"
    write(table, [["file", "label", "split", "group"], ["1.dcm", 0, "val", "x"], ["3.dcm", 1, "val", "x"]])
    assert [sample.group for sample in dataset.load(dicom, labels=table)] == ["x", "x"]
    write(table, [["sop_instance_uid", "label", "split"], ["1.2.3", 0, "val"]])
    with pytest.raises(InputError, match=r"mine\.csv:2: sop_instance_uid 1\.2\.3 is not in"):
        dataset.load(dicom, labels=table)
    with pytest.raises(InputError, match=r"gone\.csv: no such file"):
        dataset.load(dicom, labels=dicom / "gone.csv")


def test_what_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not a data set; it must hold manifest\.csv with images/"):
        dataset.load(tmp_path)
    with pytest.raises(InputError, match=r"no\.png: not an image"):
        dataset.display(tmp_path / "no.png")
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(bytes(128) + b"DICM" + bytes(40))
    with pytest.raises(InputError, match=r"broken\.dcm: "):
        dataset.display(broken)


def test_training_sees_what_serving_sees(tmp_path: Path) -> None:
    save(tmp_path / "1.png", picture(5))
    sample = dataset.Sample(tmp_path / "1.png", "val", True, "1")
    served, _ = pixels.letterbox(dataset.display(sample.path), 96, (1.0, 99.0))
    np.testing.assert_array_equal(augment.square(sample, 96, (1.0, 99.0)).image, np.round(served * 255))


def test_the_given_data(data_dir: Path) -> None:
    samples = dataset.load(data_dir / "fracatlas")
    assert Counter(sample.split for sample in samples) == {"train": 2371, "val": 484, "test": 611}
    assert sum(sample.positive for sample in samples) == 609
    assert {sample.positive for sample in samples if sample.marks} == {True}
    assert {"anatomy", "views", "hardware", "original_width"} < set(samples[0].traits)
