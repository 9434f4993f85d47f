"""A model package with untrained weights, for tests that need answers but not good ones."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pacs_node.analyze.architectures import ARCHITECTURES
from pacs_node.analyze.package import MANIFEST, WEIGHTS


def write_package(folder: Path, *, positive: bool = True) -> Path:
    """Write a package that calls every image positive, or none; its folder."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    name = "squeezenet1_0"
    architecture = ARCHITECTURES[name]
    folder.mkdir(parents=True, exist_ok=True)
    save_file(architecture.build().state_dict(), folder / WEIGHTS)
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    (folder / MANIFEST).write_text(
        f"""id = "untrained"
name = "Untrained"
version = "0"
architecture = "{name}"
labels = ["not fractured", "fractured"]
threshold = 0.5
weights_sha256 = "{digest}"

[input]
size = 128
stretch = [0.5, 99.5]

[calibration]
slope = 0.01
intercept = {1.5 if positive else -1.5}

[heat_map]
layer = "{architecture.layer}"
stride = {architecture.stride}
origin = {architecture.origin}

[finding]
value = "125605004"
scheme = "SCT"
meaning = "Fracture of bone"
positive = "Fracture suspected"
negative = "no fracture suspected"
caveat = "Does not exclude a fracture."

[provenance]
data = "none"
data_license = "none"
citation = "none"
pretrained = "none"
""",
        encoding="utf-8",
    )
    return folder
