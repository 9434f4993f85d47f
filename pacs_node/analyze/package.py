"""Model packages: a folder with weights and `model.toml`, which says how to run them and what they look for.

Weights are safetensors or ONNX, which hold numbers and no code; nothing is ever unpickled.
"""

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
from torch import nn

from pacs_node import toml
from pacs_node.analyze.architectures import ARCHITECTURES
from pacs_node.analyze.onnx import OCCLUSION, OnnxNetwork
from pacs_node.analyze.scope import Guard, Scope
from pacs_node.errors import ModelError
from pacs_node.records import ModelIdentity

WEIGHTS = "weights.safetensors"
MANIFEST = "model.toml"
ONNX = "onnx"
"""The architecture of weights that bring their own network."""

Text = Annotated[str, Field(min_length=1)]
ShortString = Annotated[str, Field(pattern=r"^[^\\\x00-\x1f]{1,16}$")]
LongString = Annotated[str, Field(pattern=r"^[^\\\x00-\x1f]{1,64}$")]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Input(_Table):
    """How an image becomes the network's input; see `pixels.letterbox`."""

    size: int = Field(ge=64, le=2048)
    stretch: tuple[float, float]
    mirror: bool = False
    """Each image is also shown mirrored, and the two answers are averaged."""
    mean: tuple[float, ...] = ()
    """With `std`, for ONNX: the gray image as that many channels, each (x - mean) / std; without, one."""
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


class HeatMapGrid(_Table):
    """Where the heat map is read; see `architectures.Architecture`.

    For ONNX, `layer` names an output of the network, or is "occlusion"; see `onnx.OnnxNetwork`.
    """

    layer: Text
    stride: float = Field(gt=0)
    origin: float


class Concept(_Table):
    """What is looked for, as a code and in the words that people read first."""

    value: ShortString
    scheme: ShortString
    meaning: LongString
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


class Member(_Table):
    """One network of a package."""

    architecture: str
    weights: str = Field(WEIGHTS, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    weights_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    heat_map: HeatMapGrid
    size: int | None = Field(None, ge=64, le=2048)
    """Of its own input, where that is another than the package's; then the heat map is made without it."""


class Manifest(Member):
    """`model.toml`: the first network, what the package is, and further networks where it is an ensemble."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")
    name: str = Field(min_length=1, max_length=64)
    version: str = Field(min_length=1, max_length=16)
    labels: tuple[Text, Text]
    """What the two logits stand for: the negative label, then the positive."""
    threshold: float = Field(gt=0, lt=1)
    body_parts: tuple[Annotated[str, Field(pattern=r"^[A-Z]{1,16}$")], ...] = ()
    """What it may be asked about, as BodyPartExamined (PS3.16 Annex L); empty: everything."""
    input: Input
    calibration: Calibration
    finding: Concept
    provenance: Provenance
    members: tuple[Member, ...] = ()
    """The other networks; the package's margin is the mean of all networks' margins."""
    scope: Scope | None = None
    """Without it, every image is taken for one that the model knows."""

    @property
    def networks(self) -> tuple[Member, ...]:
        """All networks of the package."""
        return self, *self.members


@dataclass(frozen=True, slots=True, eq=False)
class Package:
    """A model package that was checked and loaded."""

    manifest: Manifest
    identity: ModelIdentity
    networks: tuple[nn.Module | OnnxNetwork, ...]
    """On the CPU, for inference, in the order of `manifest.networks`."""
    guard: Guard | None
    """None where `manifest.scope` is."""


def load(folder: Path) -> Package:
    """Check and load a model package.

    Raises ModelError where a file is missing, `model.toml` has an unknown key or a bad value, the weights are
    not those that it names (sha256), or they do not fit the architecture; so too for the scope's file.
    """
    manifest = read_manifest(folder)
    networks = tuple(
        _network(folder / member.weights, member, manifest.input) for member in manifest.networks
    )
    guard = None
    if manifest.scope:
        guard = Guard(folder, manifest.scope, _watched(folder / MANIFEST, networks, manifest.scope))
    return Package(manifest=manifest, identity=identity(manifest), networks=networks, guard=guard)


def _network(path: Path, member: Member, shown: Input) -> nn.Module | OnnxNetwork:
    """One network from the very bytes whose sha256 was checked."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; {MANIFEST} names it as weights") from None
    found = hashlib.sha256(data).hexdigest()
    if found != member.weights_sha256:
        raise ModelError(
            f"{path}: sha256 is {found}, but {MANIFEST} names {member.weights_sha256}: one was changed"
        )
    if member.architecture == ONNX:
        return OnnxNetwork(str(path), data, member, len(shown.mean) or 1, member.size or shown.size)
    network = ARCHITECTURES[member.architecture].build()
    try:
        network.load_state_dict(load_weights(data))
    except (SafetensorError, RuntimeError) as error:
        raise ModelError(f"{path}: does not fit {member.architecture}: {error}") from error
    return network.requires_grad_(False).eval()


def _watched(path: Path, networks: tuple[nn.Module | OnnxNetwork, ...], scope: Scope) -> nn.Module:
    if scope.network >= len(networks):
        raise ModelError(f"{path}: scope.network: the last of {len(networks)} is {len(networks) - 1}")
    network = networks[scope.network]
    if isinstance(network, OnnxNetwork):
        raise ModelError(f"{path}: scope.network: a network in {ONNX} cannot be watched")
    if scope.layer not in dict(network.named_modules()):
        raise ModelError(f"{path}: scope.layer: this network has no layer {scope.layer!r}")
    return network


def read_manifest(folder: Path) -> Manifest:
    """`model.toml` of a package, checked against the architectures that it names. Raises ModelError."""
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
        grid = member.heat_map
        known = architecture.layer, architecture.stride, architecture.origin
        if (grid.layer, grid.stride, grid.origin) != known:
            raise ModelError(
                f"{path}: heat_map: layer, stride and origin of {member.architecture} are "
                f"{known[0]!r}, {known[1]:g} and {known[2]:g}"
            )
        if manifest.input.mean:
            raise ModelError(f"{path}: input.mean: is for {ONNX}; {member.architecture} takes 0..1")
    return manifest


def as_toml(manifest: Manifest) -> str:
    """`model.toml` of a manifest, without the keys that have their defaults."""
    return toml.dump(manifest.model_dump(mode="json", exclude_defaults=True))


def identity(manifest: Manifest) -> ModelIdentity:
    """What reports need of a package.

    `sha256` covers the weights and all of `model.toml` that changes an answer.
    """
    # A key that is left as it was before there was such a key must not make it another model.
    told = {"id", "name", "version", "provenance", "weights"}
    answers = manifest.model_dump(
        mode="json",
        exclude={**dict.fromkeys(told, True), "members": {"__all__": {"weights"}}, "scope": {"file"}},
        exclude_defaults=True,
    )
    finding = manifest.finding
    explanations = {_explanation(member) for member in manifest.networks if member.size is None}
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


def _explanation(member: Member) -> str:
    if member.architecture != ONNX:
        return "Grad-CAM"
    return "occlusion sensitivity" if member.heat_map.layer == OCCLUSION else "the network's own map"
