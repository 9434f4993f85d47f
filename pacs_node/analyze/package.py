"""Model packages: a folder with `weights.safetensors` and `model.toml`, which says how to run them."""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydicom.sr.coding import Code
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from pacs_node.analyze.architectures import ARCHITECTURES
from pacs_node.errors import ModelError
from pacs_node.records import ModelIdentity

WEIGHTS = "weights.safetensors"
MANIFEST = "model.toml"

Text = Annotated[str, Field(min_length=1)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Input(_Table):
    """How an image becomes the network's input; see `pixels.letterbox`."""

    size: int = Field(ge=64, le=2048)
    stretch: tuple[float, float]

    @model_validator(mode="after")
    def _ordered(self) -> Input:
        if not 0 <= self.stretch[0] < self.stretch[1] <= 100:
            raise ValueError("stretch is two percentiles, the lower first, within 0 and 100")
        return self


class Calibration(_Table):
    """Platt scaling: probability = sigmoid(slope * margin + intercept), margin = logit 1 - logit 0."""

    slope: float = Field(gt=0)
    intercept: float


class HeatMapGrid(_Table):
    """Where the heat map is read; see `architectures.Architecture`."""

    layer: Text
    stride: float = Field(gt=0)
    origin: float


class Concept(_Table):
    """What is looked for, as a code and in the words that people read first."""

    value: Text
    scheme: Text
    meaning: Text
    positive: Text
    negative: Text
    caveat: Text


class Provenance(_Table):
    """What the weights were made from."""

    data: Text
    data_license: Text
    citation: Text
    pretrained: Text
    limits: tuple[Text, ...] = ()
    """What is known not to hold; shown on the card."""


class Manifest(_Table):
    """`model.toml`."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")
    name: str = Field(min_length=1, max_length=64)
    version: str = Field(min_length=1, max_length=16)
    architecture: str
    labels: tuple[Literal["not fractured"], Literal["fractured"]]
    threshold: float = Field(gt=0, lt=1)
    weights_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    input: Input
    calibration: Calibration
    heat_map: HeatMapGrid
    finding: Concept
    provenance: Provenance


@dataclass(frozen=True, slots=True, eq=False)
class Package:
    """A model package that was checked and loaded."""

    manifest: Manifest
    identity: ModelIdentity
    network: nn.Module
    """On the CPU, for inference."""


def load(folder: Path) -> Package:
    """Check and load a model package.

    Raises ModelError where a file is missing, `model.toml` has an unknown key or a bad value, the weights are
    not those that it names (sha256), or they do not fit the architecture.
    """
    manifest = read_manifest(folder)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise ModelError(f"{weights}: no such file; a model package has its weights there")
    found = hashlib.sha256(weights.read_bytes()).hexdigest()
    if found != manifest.weights_sha256:
        raise ModelError(
            f"{weights}: sha256 is {found}, but {MANIFEST} names {manifest.weights_sha256}: one was changed"
        )
    network = ARCHITECTURES[manifest.architecture].build()
    try:
        network.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError) as error:
        raise ModelError(f"{weights}: does not fit {manifest.architecture}: {error}") from error
    network.requires_grad_(False).eval()
    return Package(manifest=manifest, identity=identity(manifest), network=network)


def read_manifest(folder: Path) -> Manifest:
    """`model.toml` of a package, checked against the architecture that it names. Raises ModelError."""
    path = folder / MANIFEST
    try:
        manifest = Manifest.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; a model package has {MANIFEST} and {WEIGHTS}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ModelError(f"{path}: not valid TOML: {error}") from None
    except ValidationError as error:
        problems = [
            f"{path}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()
        ]
        raise ModelError("\n".join(problems)) from None
    architecture = ARCHITECTURES.get(manifest.architecture)
    if architecture is None:
        raise ModelError(
            f"{path}: architecture: {manifest.architecture!r} is unknown; known: {', '.join(ARCHITECTURES)}"
        )
    grid = manifest.heat_map
    known = architecture.layer, architecture.stride, architecture.origin
    if (grid.layer, grid.stride, grid.origin) != known:
        raise ModelError(
            f"{path}: heat_map: layer, stride and origin of {manifest.architecture} are "
            f"{known[0]!r}, {known[1]:g} and {known[2]:g}"
        )
    return manifest


def identity(manifest: Manifest) -> ModelIdentity:
    """What reports need of a package.

    `sha256` covers the weights and all of `model.toml` that changes an answer.
    """
    answers = manifest.model_dump(mode="json", exclude={"id", "name", "version", "provenance"})
    finding = manifest.finding
    return ModelIdentity(
        id=manifest.id,
        name=manifest.name,
        version=manifest.version,
        sha256=hashlib.sha256(json.dumps(answers, sort_keys=True).encode()).hexdigest(),
        threshold=manifest.threshold,
        finding=Code(finding.value, finding.scheme, finding.meaning),
        positive_phrase=finding.positive,
        negative_phrase=finding.negative,
        negative_caveat=finding.caveat,
    )
