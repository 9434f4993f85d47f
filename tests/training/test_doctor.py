"""The data doctor finds what makes figures lie, and nothing where nothing is."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console
from support.pictures import picture, save

from pacs_node.training import data_doctor, dataset, duplicates
from pacs_node.training.dataset import Sample

Image = NDArray[np.uint8]


def turned(image: Image, degrees: float) -> Image:
    rows, columns = image.shape
    matrix = cv2.getRotationMatrix2D(((columns - 1) / 2, (rows - 1) / 2), degrees, 1)
    return np.asarray(cv2.warpAffine(image, matrix, (columns, rows)), np.uint8)


def as_jpeg(image: Image, quality: int = 95) -> bytes:
    return bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())


def gray_end(image: Image) -> Image:
    image = image.copy()
    image[-image.shape[0] // 6 :] = 128
    return image


def wrist(seed: int) -> Image:
    return np.asarray(cv2.resize(picture(seed), (200, 240), interpolation=cv2.INTER_CUBIC), np.uint8)


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Twelve pictures unlike each other, every other one positive, eight to train and four to test."""
    made = []
    for number in range(12):
        path = tmp_path / f"{number}.png"
        save(path, wrist(number))
        made.append(Sample(path, "train" if number < 8 else "test", number % 2 == 1, str(number)))
    return made


def text(report: data_doctor.Report) -> str:
    console = Console(file=io.StringIO(), width=200)
    report.show(console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_sound_data_set_is_clean(samples: list[Sample]) -> None:
    report = data_doctor.examine(samples)
    assert (report.leaks, report.twins, report.unreadable, report.damaged) == ((), (), {}, {})
    assert report.mended() == samples
    assert "leaks: none" in text(report)


@pytest.mark.parametrize(
    "copy",
    [
        lambda image: image,
        lambda image: np.rot90(image).copy(),
        lambda image: image[:, ::-1].copy(),
        lambda image: turned(image, 17),
        lambda image: turned(image[::-1].copy(), -140),
        lambda image: np.uint8(image * 0.6 + 40),
        lambda image: cv2.resize(image, (100, 120), interpolation=cv2.INTER_AREA),
        lambda image: cv2.resize(image, (150, 150), interpolation=cv2.INTER_AREA),
        lambda image: image[12:-12, 10:-10].copy(),
        lambda image: cv2.imdecode(np.frombuffer(as_jpeg(image, 40), np.uint8), cv2.IMREAD_GRAYSCALE),
        gray_end,
    ],
    ids=[
        "same",
        "quarter",
        "mirrored",
        "turned",
        "both",
        "darker",
        "half",
        "square",
        "cropped",
        "jpeg",
        "cut",
    ],
)
def test_a_copy_in_another_split_is_a_leak(copy: Callable[[Image], Image], samples: list[Sample]) -> None:
    path = samples[0].path.with_name("copy.png")
    save(path, copy(wrist(8)))
    report = data_doctor.examine([*samples, Sample(path, "train", False, "copy")])
    (leak,) = report.leaks
    assert leak.startswith("8.png (test, negative) and copy.png (train, negative) are the same image")
    assert report.mended() == samples


def test_copies_in_one_split_are_no_leak_unless_their_labels_differ(samples: list[Sample]) -> None:
    path = samples[0].path.with_name("copy.png")
    save(path, turned(wrist(0), 30))
    copy = Sample(path, "train", False, "copy")
    report = data_doctor.examine([*samples, copy])
    assert report.leaks == ()
    assert "0.png (train, negative) and copy.png" in text(report)
    (leak,) = data_doctor.examine([*samples, replace(copy, positive=True)]).leaks
    assert "(train, negative) and copy.png (train, positive)" in leak


def test_a_group_in_two_splits_is_a_leak(samples: list[Sample]) -> None:
    split = [*samples[:-1], replace(samples[-1], group="3")]
    report = data_doctor.examine(split)
    assert report.leaks == ("group 3 is in test and train",)
    assert report.mended() == [sample for sample in split if sample.path != samples[3].path]


def test_unreadable_and_damaged_images(samples: list[Sample]) -> None:
    folder = samples[0].path.parent
    content = as_jpeg(wrist(20))
    (folder / "cut.jpg").write_bytes(content[: len(content) * 3 // 4])
    (folder / "mended.jpg").write_bytes(as_jpeg(gray_end(wrist(21))))
    png = (folder / "1.png").read_bytes()
    (folder / "cut.png").write_bytes(png[: len(png) // 2])
    (folder / "none.png").write_bytes(b"no image")
    (folder / "bare.dcm").write_bytes(bytes(128) + b"DICM")
    names = ("cut.jpg", "mended.jpg", "cut.png", "none.png", "bare.dcm")
    more = [Sample(folder / name, "train", False, name) for name in names]
    report = data_doctor.examine([*samples, *more])
    assert {path.name for path in report.unreadable} == {"none.png", "bare.dcm", "cut.png"}
    assert report.damaged[folder / "cut.jpg"] == "truncated: the JPEG has no end marker"
    assert report.damaged[folder / "mended.jpg"].startswith("once truncated: its last 4")
    assert set(report.damaged) == {folder / name for name in ("cut.jpg", "mended.jpg")}
    assert {sample.path.name for sample in [*samples, *more]} - {
        sample.path.name for sample in report.mended()
    } == {"none.png", "bare.dcm", "cut.png"}


def test_what_tells_the_label_without_the_bone(tmp_path: Path) -> None:
    made = []
    for number in range(60):
        positive = number % 3 == 0
        image = wrist(number)[: 200 + 8 * (number % 5)]
        save(tmp_path / f"{number}.png", np.asarray(image // 2 + 80, np.uint8) if positive else image)
        traits = {
            "room": "A" if positive or number % 7 == 0 else "BC"[number % 2],
            "day": str(number // 3 % 4),
        }
        made.append(Sample(tmp_path / f"{number}.png", "train", positive, str(number), traits=traits))
    report = data_doctor.examine(made)
    assert report.shortcuts["room"] > 0.85
    assert report.shortcuts["day"] < data_doctor.SHORTCUT
    assert report.shortcuts["rows"] < data_doctor.SHORTCUT
    told = text(report)
    assert "room: 0.8" in told
    assert "day:" not in told
    read = json.loads(json.dumps(report.as_dict()))
    assert read["shortcuts"] == report.shortcuts
    assert read["splits"]["train"] == {"images": 60, "positive": 20, "groups": 60}


def test_likeness_finds_the_turn_and_the_mirror() -> None:
    one = duplicates.disc(np.asarray(wrist(1) / 255, np.float32))
    turned_one = duplicates.disc(np.asarray(turned(wrist(1), 75)[:, ::-1] / 255, np.float32))
    others = [duplicates.disc(np.asarray(wrist(seed) / 255, np.float32)) for seed in range(2, 30)]
    found = duplicates.find([*others, one, turned_one])
    assert list(found) == [(28, 29)]
    assert found[28, 29] > duplicates.SAME


def test_clusters_join_through_others() -> None:
    assert duplicates.clusters(6, [(4, 5), (2, 4), (0, 1)]) == [0, 0, 2, 3, 2, 2]


def test_the_given_data_have_copies_that_were_cut_short(data_dir: Path) -> None:
    known = {"IMG0002962", "IMG0004256", "IMG0002810", "IMG0004174", "IMG0002691", "IMG0004100"}
    samples = dataset.load(data_dir / "fracatlas")
    report = data_doctor.examine([*samples[:40], *(s for s in samples[40:] if s.path.stem in known)])
    assert [leak.split()[0] for leak in report.leaks] == [
        "IMG0002691.jpg",
        "IMG0002810.jpg",
        "IMG0002962.jpg",
    ]
    assert {path.stem for path in report.damaged} >= {"IMG0004174", "IMG0004100"}
    assert {sample.path.stem for sample in samples} & known - {
        sample.path.stem for sample in report.mended()
    } == {"IMG0002691", "IMG0002810", "IMG0004256"}
