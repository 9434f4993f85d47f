"""The shipped model: the same answer whatever the batch, in source coordinates."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.model_packages import write_untrained

from pacs_node.analyze import package
from pacs_node.analyze.classifier import Classifier
from pacs_node.errors import ModelError

MODEL = Path(__file__).resolve().parents[2] / "models" / "fracture-squeezenet-2"

Images = list[NDArray[np.float32]]


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    """The shipped model on the CPU."""
    return Classifier(package.load(MODEL), "cpu")


@pytest.fixture(scope="module")
def images() -> Images:
    """Bars and noise of different shapes, 0..1."""
    rng = np.random.default_rng(5)
    made: Images = []
    for index, (rows, columns) in enumerate([(300, 200), (200, 300), (500, 500), (64, 80), (900, 400)]):
        image = cv2.GaussianBlur(rng.random((rows, columns), np.float32), (0, 0), 3)
        cv2.line(image, (columns // 4, 0), (columns // 2, rows), 1.0, 5 + 3 * index)
        made.append(np.clip(image, 0, 1, dtype=np.float32))
    return made


def test_an_answer_does_not_depend_on_the_batch(classifier: Classifier, images: Images) -> None:
    together = classifier.predict(images)
    smaller = Classifier(package.load(MODEL), "cpu", batch=2).predict(images)
    for image, one, other in zip(images, together, smaller, strict=True):
        (alone,) = classifier.predict([image])
        assert alone.probability == pytest.approx(one.probability, abs=1.01e-4)
        assert alone.probability == pytest.approx(other.probability, abs=1.01e-4)
        np.testing.assert_allclose(alone.heat_map.values, one.heat_map.values, atol=1e-3)
        assert one.probability == round(one.probability, 4)
        assert one.heat_map.values.dtype == np.float32
    assert len({one.probability for one in together}) > 1


def test_no_images_no_answers(classifier: Classifier) -> None:
    assert classifier.predict([]) == []


def test_it_counts_its_images_and_seconds(images: Images, tmp_path: Path) -> None:
    counting = Classifier(package.load(write_untrained(tmp_path)), "cpu")
    assert counting.stats() == {"inference_images": 0, "inference_seconds": 0}
    counting.predict(images[:2])
    counting.predict(images[:1])
    told = counting.stats()
    assert told["inference_images"] == 3
    assert told["inference_seconds"] > 0


def test_the_map_is_placed_in_the_source(classifier: Classifier, images: Images) -> None:
    manifest = package.read_manifest(MODEL)
    size = manifest.input.size
    prediction = classifier.predict([images[4]])[0]  # 900 rows, 400 columns
    scale_x, scale_y = round(400 * size / 900) / 400, size / 900
    left = (size - round(400 * size / 900)) // 2
    heat_map = prediction.heat_map
    origin, stride = manifest.heat_map.origin, manifest.heat_map.stride
    assert heat_map.origin == pytest.approx(((origin - left) / scale_x, origin / scale_y))
    assert heat_map.step == pytest.approx((stride / scale_x, stride / scale_y))


def test_a_threshold_of_the_settings_replaces_the_models(classifier: Classifier) -> None:
    other = Classifier(package.load(MODEL), "cpu", threshold=0.9).identity
    assert other.threshold == 0.9
    assert other.sha256 == classifier.identity.sha256
    assert other.key != classifier.identity.key


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none_is_refused() -> None:
    with pytest.raises(ModelError, match="cuda"):
        Classifier(package.load(MODEL), "cuda")
    assert Classifier(package.load(MODEL), "auto").predict([np.zeros((64, 64), np.float32)])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_answers_as_the_cpu(classifier: Classifier, images: Images) -> None:
    cuda = Classifier(package.load(MODEL), "cuda")
    there = cuda.predict(images)
    told = cuda.stats()
    assert 0 < told["gpu_used_bytes"] <= told["gpu_peak_bytes"] < told["gpu_total_bytes"]
    for one, other in zip(classifier.predict(images), there, strict=True):
        assert one.probability == pytest.approx(other.probability, abs=1e-3)


def test_a_member_of_another_size_has_its_part_in_the_answer_alone(images: Images, tmp_path: Path) -> None:
    alone = write_untrained(tmp_path / "alone")
    both = write_untrained(tmp_path / "both")
    member = f"""
[[members]]
architecture = "squeezenet1_0"
weights_sha256 = "{package.read_manifest(both).weights_sha256}"
heat_map = {{ layer = "features.12", stride = 16.0, origin = 17.5 }}
size = 256
"""
    (both / package.MANIFEST).write_text((both / package.MANIFEST).read_text() + member)
    (large := write_untrained(tmp_path / "large") / package.MANIFEST).write_text(
        (alone / package.MANIFEST).read_text().replace("size = 128", "size = 256")
    )
    small, joined, big = (
        Classifier(package.load(folder), "cpu").predict(images) for folder in (alone, both, large.parent)
    )
    for one, together, other in zip(small, joined, big, strict=True):
        assert together.margin == pytest.approx((one.margin + other.margin) / 2, abs=1e-5)
        assert one.margin != other.margin
        np.testing.assert_allclose(together.heat_map.values, one.heat_map.values, atol=1e-5)
        assert together.heat_map.origin == one.heat_map.origin


def test_the_first_network_has_the_packages_size(tmp_path: Path) -> None:
    folder = write_untrained(tmp_path / "odd")
    text = (folder / package.MANIFEST).read_text()
    (folder / package.MANIFEST).write_text("size = 96\n" + text)
    with pytest.raises(ModelError, match="size: is for members"):
        package.load(folder)
