"""Model packages: a folder with `model.toml` and weights (safetensors or ONNX, never pickled code)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydicom.sr.coding import Code
from safetensors import SafetensorError
from safetensors.torch import load as load_weights

from pacs_node import toml
from pacs_node.analyze.architectures import ARCHITECTURES, HeatMapGrid
from pacs_node.analyze.networks import OCCLUSION, ExplainedNetwork, OnnxNetwork, TorchNetwork
from pacs_node.analyze.scope import Scope, ScopeGuard, checked_bytes
from pacs_node.errors import ModelError
from pacs_node.records import ModelIdentity

WEIGHTS = "weights.safetensors"
MANIFEST = "model.toml"
ONNX = "onnx"
"""The architecture of weights that contain their network."""

Text = Annotated[str, Field(min_length=1)]
ShortString = Annotated[str, Field(pattern=r"^[^\\\x00-\x1f]{1,16}$")]
LongString = Annotated[str, Field(pattern=r"^[^\\\x00-\x1f]{1,64}$")]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Input(_Table):
    """The conversion of an image to the network's input; see `pixels.letterbox`."""

    size: int = Field(ge=64, le=2048)
    stretch: tuple[float, float]
    mirror: bool = False
    """Average the answers to the image and to its mirror image."""
    mean: tuple[float, ...] = ()
    """With `std`, for ONNX: one channel for each value, (x - mean) / std; without, one channel."""
    std: tuple[Annotated[float, Field(gt=0)], ...] = ()

    @model_validator(mode="after")
    def _ordered(self) -> Input:
        if not 0 <= self.stretch[0] < self.stretch[1] <= 100:
            raise ValueError("stretch is two percentiles, the lower first, within 0 and 100")
        if len(self.mean) != len(self.std) or len(self.mean) > 3:
            raise ValueError("mean and std have one value for each channel, at most three")
        return self


class Calibration(_Table):
    """Platt scaling: probability = sigmoid(slope * margin + intercept), margin = logit 1 - logit 0."""

    slope: float = Field(gt=0)
    intercept: float


class Concept(_Table):
    """The finding: its code, and the phrases of reports and pages."""

    value: ShortString
    scheme: ShortString
    meaning: LongString
    positive: Text
    negative: Text
    caveat: Text


DEFAULT_LABELS = "not fractured", "fractured"
DEFAULT_FINDING = Concept(
    value="125605004",
    scheme="SCT",
    meaning="Fracture of bone",
    positive="Fracture suspected",
    negative="no fracture suspected",
    caveat="This does not exclude a fracture.",
)
"""With `DEFAULT_LABELS`, the finding of a training recipe that states none."""


class Provenance(_Table):
    """Data and weights that the model was made from."""

    data: Text
    data_license: Text
    citation: Text
    pretrained: Text
    limits: tuple[Text, ...] = ()
    """Known limits; shown on the card."""


class Member(_Table):
    """One network of a package."""

    architecture: str
    weights: str = Field(WEIGHTS, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    weights_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    heat_map: HeatMapGrid
    size: int | None = Field(None, ge=64, le=2048)
    """Side of its input if it differs from the package's; such a network takes no part in the heat map."""


class Manifest(Member):
    """`model.toml`: the first network, the package, and the other networks of an ensemble."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")
    name: str = Field(min_length=1, max_length=64)
    version: str = Field(min_length=1, max_length=16)
    labels: tuple[Text, Text]
    """The negative label, then the positive one, in the order of the logits."""
    threshold: float = Field(gt=0, lt=1)
    body_parts: tuple[Annotated[str, Field(pattern=r"^[A-Z]{1,16}$")], ...] = ()
    """BodyPartExamined (PS3.16 Annex L) of the images that it accepts; empty: all."""
    input: Input
    calibration: Calibration
    finding: Concept
    provenance: Provenance
    members: tuple[Member, ...] = ()
    """The other networks; the margin of the package is the mean of all margins."""
    scope: Scope | None = None
    """Without a scope, no image is refused."""

    @property
    def networks(self) -> tuple[Member, ...]:
        """All networks of the package."""
        return self, *self.members


@dataclass(frozen=True, slots=True, eq=False)
class Package:
    """A checked and loaded model package."""

    manifest: Manifest
    identity: ModelIdentity
    networks: tuple[ExplainedNetwork, ...]
    """On the CPU, in the order of `manifest.networks`."""
    guard: ScopeGuard | None


def load(folder: Path) -> Package:
    """Check and load a model package.

    Raises ModelError for a missing file, an unknown key or bad value in `model.toml`, weights or a scope of
    another sha256, or weights that do not fit the architecture.
    """
    manifest, path = read_manifest(folder), folder / MANIFEST
    networks = tuple(
        _network(folder / member.weights, member, manifest.input) for member in manifest.networks
    )
    scope, guard = manifest.scope, None
    if scope:
        if scope.network >= len(networks):
            raise ModelError(f"{path}: scope.network: the last of {len(networks)} is {len(networks) - 1}")
        watched = networks[scope.network]
        if not isinstance(watched, TorchNetwork):
            raise ModelError(f"{path}: scope.network: a network in {ONNX} cannot be watched")
        if scope.layer not in dict(watched.module.named_modules()):
            raise ModelError(f"{path}: scope.layer: this network has no layer {scope.layer!r}")
        guard = ScopeGuard(folder, scope, watched.module)
    return Package(manifest=manifest, identity=identity(manifest), networks=networks, guard=guard)


def _network(path: Path, member: Member, shown: Input) -> ExplainedNetwork:
    """A network from the very bytes whose sha256 was checked."""
    data = checked_bytes(path, member.weights_sha256, f"{MANIFEST} names")
    if member.architecture == ONNX:
        return OnnxNetwork(str(path), data, member.heat_map, len(shown.mean) or 1, member.size or shown.size)
    module = ARCHITECTURES[member.architecture].build()
    try:
        module.load_state_dict(load_weights(data))
    except (SafetensorError, RuntimeError) as error:
        raise ModelError(f"{path}: does not fit {member.architecture}: {error}") from error
    return TorchNetwork(module, member.heat_map.layer)


def read_manifest(folder: Path) -> Manifest:
    """Read `model.toml` and check it against the architectures that it names. Raises ModelError."""
    path = folder / MANIFEST
    tables = toml.read(path, ModelError, f"a model package has {MANIFEST} and weights")
    manifest = toml.validated(Manifest, tables, path, ModelError)
    if manifest.size is not None:
        raise ModelError(f"{path}: size: is for members; the first network's is input.size")
    for member in manifest.networks:
        if member.architecture == ONNX:
            continue
        architecture = ARCHITECTURES.get(member.architecture)
        if architecture is None:
            raise ModelError(
                f"{path}: architecture: {member.architecture!r} is unknown; known: "
                f"{', '.join([*ARCHITECTURES, ONNX])}"
            )
        grid = architecture.grid
        if member.heat_map != grid:
            raise ModelError(
                f"{path}: heat_map: layer, stride and origin of {member.architecture} are "
                f"{grid.layer!r}, {grid.stride:g} and {grid.origin:g}"
            )
        if manifest.input.mean:
            raise ModelError(f"{path}: input.mean: is for {ONNX}; {member.architecture} takes 0..1")
    return manifest


def as_toml(manifest: Manifest) -> str:
    """The text of `model.toml`, without the keys that have their defaults."""
    return toml.dump(manifest.model_dump(mode="json", exclude_defaults=True))


def identity(manifest: Manifest) -> ModelIdentity:
    """The model as reports name it; `sha256` covers the weights and every key that changes an answer."""
    descriptive = {"id", "name", "version", "provenance", "weights"}
    answers = manifest.model_dump(
        mode="json",
        exclude={**dict.fromkeys(descriptive, True), "members": {"__all__": {"weights"}}, "scope": {"file"}},
        # A key that is newer than a package and unused in it must not make it another model.
        exclude_defaults=True,
    )
    finding = manifest.finding
    explanations = {
        "Grad-CAM"
        if member.architecture != ONNX
        else "occlusion sensitivity"
        if member.heat_map.layer == OCCLUSION
        else "the network's own map"
        for member in manifest.networks
        if member.size is None
    }
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
        explanation=explanations.pop() if len(explanations) == 1 else "several methods",
        body_parts=manifest.body_parts,
    )
