"""A training run's settings: one TOML file, recorded with what it made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pacs_node import toml
from pacs_node.analyze.architectures import ARCHITECTURES
from pacs_node.analyze.package import DEFAULT_FINDING, DEFAULT_LABELS, Concept, Input, Provenance, Text
from pacs_node.errors import ConfigError

RECORD = "recipe.json"
BEST = "best.safetensors"
"""In a run's folder."""

Part = Annotated[float, Field(ge=0, le=1)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Network(_Table):
    """What is trained."""

    architecture: str = "squeezenet1_0-map"
    pretrained: Path | None = None
    """Weights to start from, as safetensors: torchvision's for RGB images, or a package's."""
    dropout: Part | None = None
    """Of all the network's dropout layers; absent: the architecture's own."""

    @model_validator(mode="after")
    def _known(self) -> Network:
        if self.architecture not in ARCHITECTURES:
            raise ValueError(f"architecture is one of {', '.join(ARCHITECTURES)}, not {self.architecture!r}")
        return self


class Optimization(_Table):
    """How it is trained."""

    epochs: int = Field(16, ge=1)
    batch: int = Field(16, ge=1)
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: float = Field(3e-4, gt=0)
    """The highest."""
    schedule: Literal["one-cycle", "cosine", "step", "constant"] = "one-cycle"
    """One-cycle rises for a tenth of the steps; step divides by ten at half and at three quarters."""
    l1: float = Field(0.0, ge=0)
    l2: float = Field(0.01, ge=0)
    """Weight decay."""
    loss: Literal["cross-entropy", "focal"] = "cross-entropy"
    """Focal with gamma 2 (Lin et al. 2017, arXiv 1708.02002, section 3.2)."""
    balance: Literal["none", "weights", "undersample", "oversample"] = "weights"
    """Against unequal classes: weights in the loss; or an epoch draws both classes equally often, as often as
    the rarer one (undersample) or the more frequent one (oversample) has images."""
    mixup: float = Field(0.0, ge=0)
    """Alpha of its Beta distribution (Zhang et al. 2018, arXiv 1710.09412); 0: off."""
    localization: float = Field(0.0, ge=0)
    """Weight of the loss on the map of evidence against the marks; needs an architecture with such a map."""
    average: Part = 0.99
    """Decay of the exponential moving average of the weights, which is what is evaluated and kept; 0: off."""
    patience: int = Field(0, ge=0)
    """Stop after so many epochs without a better AUC on the validation split; 0: never."""
    seed: int = 1
    threads: int = Field(2, ge=1)
    """Of the CPU."""

    @model_validator(mode="after")
    def _unmixed(self) -> Optimization:
        if self.mixup and self.localization:
            raise ValueError("mixup and localization exclude each other: a mixed image has no place to show")
        return self


class Augmentation(_Table):
    """How a training image is varied. All 0 and false: not at all."""

    crop: int = Field(0, ge=0)
    """Side of the square that is cut from the input, around a mark as often as not; 0: all of the input."""
    mirror: bool = True
    """Left to right and upside down, each every second time."""
    rotation: float = Field(20.0, ge=0, le=180)
    """Largest, in degrees."""
    scale: Part = 0.15
    """Largest natural logarithm of the factor."""
    shift: Part = 0.06
    """Largest, as part of the side; of crops anywhere."""
    gamma: Part = 0.3
    """Largest natural logarithm of the exponent on the brightness."""
    contrast: Part = 0.0
    """Largest change of black and white, as part of the range."""
    blur: float = Field(0.0, ge=0)
    """Largest sigma in pixels, of every fourth image."""
    noise: Part = 0.0
    """Largest standard deviation, of every fourth image."""
    collimation: Part = 0.0
    """Part of the images of which a random border is blackened."""
    randomize: Part = 0.0
    """Part of the images that first get the look of another source; see `randomize.vary`."""


UNSTATED = Provenance(
    data="not stated", data_license="not stated", citation="not stated", pretrained="not stated"
)


class Recipe(_Table):
    """One run. Raises pydantic's ValidationError for an unknown key or a bad value."""

    name: str = "Unnamed"
    """The model's, as reports give it."""
    version: str = "1.0.0"
    labels: tuple[Text, Text] = DEFAULT_LABELS
    """The negative label, then the positive one, as the model and its data set name them."""
    finding: Concept = DEFAULT_FINDING
    provenance: Provenance = UNSTATED
    """For the card."""
    input: Input = Input(size=256, stretch=(1.0, 99.0))
    network: Network = Network()
    optimization: Optimization = Optimization()
    augmentation: Augmentation = Augmentation()

    @model_validator(mode="after")
    def _gray(self) -> Recipe:
        if self.input.mean:
            raise ValueError("input.mean and input.std are for ONNX; what is trained here takes 0..1")
        return self

    @model_validator(mode="after")
    def _names_its_finding(self) -> Recipe:
        # Reports of a pneumonia model must not name the default finding.
        if self.labels != DEFAULT_LABELS and "finding" not in self.model_fields_set:
            raise ValueError(
                f"finding: missing; state the code and phrases for {self.labels[1]!r} in [finding]"
            )
        return self


def load(path: Path | None) -> Recipe:
    """A recipe from its TOML file, the default one without. Raises ConfigError naming the key."""
    return toml.validated(Recipe, toml.read(path), path) if path else Recipe()


def record(run: Path, recipe: Recipe) -> None:
    """Keep the recipe with its run. Raises ConfigError where the run was begun with another one."""
    if (run / RECORD).is_file() and recorded(run) != recipe:
        raise ConfigError(f"{run}: this run was begun with another recipe; choose another name or delete it")
    (run / RECORD).write_text(recipe.model_dump_json(indent=2) + "\n", encoding="utf-8")


def recorded(run: Path) -> Recipe:
    """The recipe that a run was begun with."""
    return Recipe.model_validate(json.loads((run / RECORD).read_text(encoding="utf-8")))
