"""Model packages made here: untrained weights, and ONNX networks that look for bright places."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from pacs_node.analyze import package
from pacs_node.analyze.architectures import ARCHITECTURES, HeatMapGrid
from pacs_node.analyze.package import MANIFEST, WEIGHTS

FINDING = package.Concept(
    value="19227008",
    scheme="SCT",
    meaning="Foreign body",
    positive="Foreign body suspected",
    negative="no foreign body suspected",
    caveat="Only what is bright was looked for.",
)


def network(
    cell: int, channels: int = 1, batch: int | str = "n", size: int | str = "size"
) -> onnx.ModelProto:
    """Logits 0 and 10 x the brightest cell's mean; its second output, "evidence", is each cell's mean."""
    nodes = [
        helper.make_node("AveragePool", ["image"], ["pooled"], kernel_shape=[cell] * 2, strides=[cell] * 2),
        helper.make_node("ReduceMean", ["pooled"], ["evidence"], axes=[1], keepdims=0),
        helper.make_node("ReduceMax", ["evidence"], ["most"], axes=[1, 2], keepdims=1),
        helper.make_node("Flatten", ["most"], ["column"]),
        helper.make_node("Mul", ["column", "ten"], ["positive"]),
        helper.make_node("Mul", ["column", "zero"], ["negative"]),
        helper.make_node("Concat", ["negative", "positive"], ["logits"], axis=1),
    ]
    constants = {"ten": 10.0, "zero": 0.0}
    graph = helper.make_graph(
        nodes,
        "bright",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, channels, size, size])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 2]),
            helper.make_tensor_value_info("evidence", TensorProto.FLOAT, [batch, "rows", "columns"]),
        ],
        [helper.make_tensor(name, TensorProto.FLOAT, [1], [value]) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def member(
    folder: Path, model: onnx.ModelProto, cell: int, name: str = "model.onnx", layer: str = "evidence"
) -> package.Member:
    """Write an ONNX file; its entry for `model.toml`."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / name)
    return entry(folder / name, cell, layer)


def entry(path: Path, cell: int, layer: str = "evidence") -> package.Member:
    """The entry for `model.toml` of an ONNX file."""
    return package.Member(
        architecture=package.ONNX,
        weights=path.name,
        weights_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        heat_map=HeatMapGrid(layer=layer, stride=cell, origin=cell / 2),
    )


def write_onnx(folder: Path, *members: package.Member, size: int = 128, **shown: object) -> Path:
    """Write `model.toml` for these networks; `shown` goes into its `[input]`."""
    first, *others = members
    manifest = package.Manifest(
        **first.model_dump(),
        id="bright-1",
        name="Bright",
        version="2.0",
        labels=("dark", "bright"),
        threshold=0.5,
        input=package.Input.model_validate({"size": size, "stretch": (0, 100), **shown}),
        calibration=package.Calibration(slope=1, intercept=-5),
        finding=FINDING,
        provenance=package.Provenance(data="none", data_license="none", citation="none", pretrained="none"),
        members=tuple(others),
    )
    (folder / package.MANIFEST).write_text(package.as_toml(manifest), encoding="utf-8")
    return folder


def write_untrained(folder: Path, *, positive: bool = True) -> Path:
    """Write a package with untrained weights that calls every image positive, or none; its folder."""
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
layer = "{architecture.grid.layer}"
stride = {architecture.grid.stride}
origin = {architecture.grid.origin}

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
