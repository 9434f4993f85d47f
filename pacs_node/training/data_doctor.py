"""Checks of a data set before training.

They find unreadable and damaged images, duplicates, groups in two splits, and shortcuts: traits that predict
the label of an image without showing the finding.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.tree import DecisionTreeClassifier

from pacs_node.errors import InputError
from pacs_node.training import dataset, duplicates
from pacs_node.training.dataset import Sample

SHORTCUT = 0.6
"""AUC from which on a trait is reported as a shortcut."""
FOLDS = 5
LISTED = 20
"""Number of problems of a kind that are listed."""


@dataclass(frozen=True, slots=True)
class Twins:
    """Two copies of one image."""

    first: Sample
    second: Sample
    likeness: float
    """0..1; exactly 1 if all pixels are the same."""

    @property
    def dishonest(self) -> bool:
        """Whether they are in two splits or have contradictory labels."""
        return self.first.split != self.second.split or self.first.positive != self.second.positive

    def __str__(self) -> str:
        first, second = (
            f"{sample.path.name} ({sample.split}, {'positive' if sample.positive else 'negative'})"
            for sample in (self.first, self.second)
        )
        return f"{first} and {second} are the same image ({self.likeness:.3f})"


@dataclass(frozen=True, slots=True)
class Report:
    """The result of `examine`."""

    samples: tuple[Sample, ...]
    unreadable: dict[Path, str]
    damaged: dict[Path, str]
    twins: tuple[Twins, ...]
    shortcuts: dict[str, float]
    """Cross-validated AUC with which a trait alone predicts the label, the largest first."""

    @property
    def leaks(self) -> tuple[str, ...]:
        """Images or groups in two splits, and twins with contradictory labels."""
        groups = [
            f"group {group} is in {' and '.join(sorted({sample.split for sample in members}))}"
            for group, members in self._divided_groups()
        ]
        return (*groups, *(str(twins) for twins in self.twins if twins.dishonest))

    def mended(self) -> list[Sample]:
        """The readable samples; train without what val or test also have, val without what test has."""
        later = {split: number for number, split in enumerate(dataset.SPLITS)}
        joined = [*((t.first, t.second) for t in self.twins), *(group for _, group in self._divided_groups())]
        left_out = set(self.unreadable)
        for together in joined:
            last = max(later[sample.split] for sample in together)
            left_out |= {sample.path for sample in together if later[sample.split] < last}
        return [sample for sample in self.samples if sample.path not in left_out]

    def as_dict(self) -> dict[str, object]:
        """The report for JSON."""
        return {
            "splits": self._balance(),
            "leaks": list(self.leaks),
            "unreadable": {str(path): why for path, why in self.unreadable.items()},
            "damaged": {str(path): why for path, why in self.damaged.items()},
            "twins": [[str(t.first.path), str(t.second.path), round(t.likeness, 4)] for t in self.twins],
            "shortcuts": self.shortcuts,
        }

    def show(self, console: Console) -> None:
        """Print the report, the worst first."""
        table = Table("Split", "Images", "Positive", "Groups")
        for split, count in self._balance().items():
            table.add_row(split, *(str(value) for value in count.values()))
        console.print(table)
        kinds = {
            "leaks": self.leaks,
            "unreadable": tuple(self.unreadable.values()),
            "damaged": [f"{path.name}: {why}" for path, why in self.damaged.items()],
            "the same image in one split": [str(twins) for twins in self.twins if not twins.dishonest],
            f"shortcuts to the label (AUC from {SHORTCUT} on)": [
                f"{name}: {auc:.2f}" for name, auc in self.shortcuts.items() if auc >= SHORTCUT
            ],
        }
        for kind, problems in kinds.items():
            console.print(f"{kind}: {len(problems) or 'none'}", markup=False)
            for problem in problems[:LISTED]:
                console.print(f"  {problem}", markup=False)
            if len(problems) > LISTED:
                console.print(f"  and {len(problems) - LISTED} more")

    def _balance(self) -> dict[str, dict[str, int]]:
        """Images, positive images and groups of each split."""
        balance = {}
        for split in dataset.SPLITS:
            of_split = [sample for sample in self.samples if sample.split == split]
            balance[split] = {
                "images": len(of_split),
                "positive": sum(sample.positive for sample in of_split),
                "groups": len({sample.group for sample in of_split}),
            }
        return balance

    def _divided_groups(self) -> list[tuple[str, list[Sample]]]:
        """Groups in several splits, with their samples."""
        members: dict[str, list[Sample]] = defaultdict(list)
        for sample in self.samples:
            members[sample.group].append(sample)
        return [(group, of) for group, of in members.items() if len({sample.split for sample in of}) > 1]


@dataclass(frozen=True, slots=True, eq=False)
class _Reading:
    """The properties of a readable file."""

    disc: duplicates.Disc
    sha256: str
    """Of its pixels."""
    damage: str
    looks: dict[str, str]
    """Size and brightness, which may be shortcuts."""


def examine(samples: Sequence[Sample], console: Console | None = None) -> Report:
    """Examine all splits of a data set; with a console, with progress bars (3466 images: about a minute)."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        read = threads.map(_read, [sample.path for sample in samples])
        readings = list(duplicates.progress(read, "read", len(samples), console))
    readable = [
        (sample, reading)
        for sample, reading in zip(samples, readings, strict=True)
        if isinstance(reading, _Reading)
    ]
    return Report(
        samples=tuple(samples),
        unreadable={s.path: r for s, r in zip(samples, readings, strict=True) if isinstance(r, str)},
        damaged={sample.path: reading.damage for sample, reading in readable if reading.damage},
        twins=tuple(_twins(readable, console)),
        shortcuts=_shortcuts(readable),
    )


def _read(path: Path) -> _Reading | str:
    """The properties of a file, or the reason why it cannot be read."""
    try:
        image = dataset.display(path)
    except InputError as error:
        return str(error)
    content = path.read_bytes()
    looks = {
        "rows": image.shape[0],
        "columns": image.shape[1],
        "aspect": image.shape[0] / image.shape[1],
        "mean brightness": image.mean(),
        "file size": len(content),
    }
    return _Reading(
        disc=duplicates.disc(image),
        sha256=hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest(),
        damage=_damage(content) if path.suffix.lower() in (".jpg", ".jpeg", ".png") else "",
        looks={name: str(value) for name, value in looks.items()},
    )


def _damage(content: bytes) -> str:
    """The damage of a JPEG or PNG that can still be decoded; empty if there is none."""
    if content.startswith(b"\xff\xd8") and b"\xff\xd9" not in content[-1024:]:
        return "truncated: the JPEG has no end marker"
    try:
        gray = np.asarray(Image.open(io.BytesIO(content)).convert("L"))
    except (OSError, SyntaxError, ValueError) as error:
        return f"not sound: {error}"
    # A decoder fills the missing end of a file with gray, and re-encoding keeps it.
    filled = np.abs(gray.astype(np.int16) - 128).max(axis=1) <= 4
    bar = int(np.argmin(filled[::-1])) if not filled.all() else len(filled)
    return f"once truncated: its last {bar} rows of {len(filled)} are gray" if bar >= 4 else ""


def _twins(readable: Sequence[tuple[Sample, _Reading]], console: Console | None) -> Iterator[Twins]:
    """The pairs of copies; identical images are each paired with the first of them."""
    first: dict[str, Sample] = {}
    different = []
    for sample, reading in readable:
        if reading.sha256 in first:
            yield Twins(first[reading.sha256], sample, 1.0)
        else:
            first[reading.sha256] = sample
            different.append((sample, reading.disc))
    pairs = duplicates.find([disc for _, disc in different], console)
    for (first_index, second_index), likeness in sorted(pairs.items()):
        yield Twins(different[first_index][0], different[second_index][0], likeness)


def _shortcuts(readable: Sequence[tuple[Sample, _Reading]]) -> dict[str, float]:
    """The AUC with which a small tree predicts the label from one trait, cross-validated by group."""
    labels = np.array([sample.positive for sample, _ in readable], int)
    groups = [sample.group for sample, _ in readable]
    if len(set(groups)) < FOLDS or min(np.bincount(labels, minlength=2)) < FOLDS:
        return {}
    traits = [{**sample.traits, **reading.looks} for sample, reading in readable]
    shortcuts = {}
    for name in sorted({name for of_sample in traits for name in of_sample}):
        values = [of_sample.get(name, "") for of_sample in traits]
        try:
            numbers = np.array(values, float)
        except ValueError:  # words, coded as numbers that a tree can separate
            numbers = np.unique(values, return_inverse=True)[1].astype(float)
        tree = DecisionTreeClassifier(max_leaf_nodes=16, min_samples_leaf=max(1, len(labels) // 100))  # type: ignore[no-untyped-call]
        folds = GroupKFold(FOLDS)  # type: ignore[no-untyped-call]
        guessed = cross_val_predict(
            tree, numbers[:, None], labels, groups=groups, cv=folds, method="predict_proba"
        )
        shortcuts[name] = round(float(roc_auc_score(labels, guessed[:, 1])), 3)
    return dict(sorted(shortcuts.items(), key=lambda item: -item[1]))
