"""What turns pixels into findings: decoders, model package, device, and the time that an image takes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pydicom.dataset import FileDataset

from pacs_node.config import Settings
from pacs_node.errors import ModelError
from pacs_node.operate.doctor import Check, State


def decoders() -> Iterator[Check]:
    """Which compressed transfer syntaxes are decoded, right to the pixel."""
    from pacs_node.analyze import decoders as codecs

    verdicts = dict(codecs.verdicts())
    broken: dict[str, list[str]] = {}
    for syntax, why in verdicts.items():
        if why:
            broken.setdefault(codecs.package(syntax), []).append(syntax.name)
    for package, names in broken.items():
        found = f"cannot be decoded: {', '.join(names)}; such images are reported as not analyzed"
        yield Check("decoders", State.FAIL, found, f"pip install {package}")
    if not broken:
        yield Check("decoders", State.OK, f"all {len(verdicts)} compressed transfer syntaxes are decoded")


def model(settings: Settings, phantom: FileDataset) -> Iterator[Check]:
    """The package is what it was, and it runs; `phantom` is an image to time it with."""
    from pacs_node.analyze import decode, package, pixels
    from pacs_node.analyze.classifier import Classifier

    wanted = settings.model
    try:
        loaded = package.load(wanted.path)
    except ModelError as error:
        advice = "install that model package again, or name another one as model.path"
        yield Check("model", State.FAIL, str(error), advice)
        return
    identity = loaded.identity
    yield Check("model", State.OK, f"{identity.id} {identity.version}: its files are what they were")
    try:
        classifier = Classifier(loaded, wanted.device, wanted.threshold, wanted.batch, wanted.scope_limit)
    except ModelError as error:
        advice = 'install the GPU driver (`nvidia-smi` must answer), or set model.device = "auto"'
        yield Check("device", State.FAIL, str(error), advice)
        return
    yield Check("device", State.OK, f'{classifier.device.type} (model.device = "{wanted.device}")')
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "phantom.dcm"
        phantom.save_as(path, enforce_file_format=True)
        for _ in range(2):
            # The second time counts: the first one warms up.
            start = time.perf_counter()
            display = pixels.prepare(decode.read(path)).display
            (prediction,) = classifier.predict([display])
            seconds = time.perf_counter() - start
    told = f"{seconds * 1000:.0f} ms for a phantom of {display.shape[0]} x {display.shape[1]} pixels"
    yield Check(
        "inference", State.OK, f"{told} with its heat map, at most {3600 / seconds:.0f} images/h a worker"
    )
    if prediction.scope is None or not wanted.scope_limit:
        why = "the package has no [scope]" if prediction.scope is None else "model.scope_limit = 0"
        advice = "chests, photographs and noise get a probability, too"
        yield Check("scope", State.WARN, f"images unlike the model's are not refused: {why}", advice)
    else:
        yield Check("scope", State.OK, f"images unlike the model's are refused above {wanted.scope_limit:g}")
