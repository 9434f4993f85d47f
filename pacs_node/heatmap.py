"""Heat maps: what spoke for a finding, on the grid of the network."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class HeatMap:
    """Evidence for the finding on the network's own grid, with its place in the source image.

    `values` is float32, shape (rows, columns), 0..1. The centre of cell (row r, column c) lies at source
    coordinates (origin[0] + c * step[0], origin[1] + r * step[1]); cells may lie outside of the image where
    it was letterboxed.
    """

    values: NDArray[np.float32]
    origin: tuple[float, float]
    step: tuple[float, float]

    def at_size(self, rows: int, columns: int, out_shape: tuple[int, int]) -> NDArray[np.float32]:
        """The map over a whole source image of `rows` x `columns`, as an image of `out_shape`.

        Float32, sampled bilinearly at the centres of the output's pixels; beyond the outermost cells, their
        values go on.
        """
        weights: list[NDArray[np.float32]] = []
        for axis, (source, out) in enumerate(((rows, out_shape[0]), (columns, out_shape[1]))):
            centres = (np.arange(out) + 0.5) * (source / out)
            origin, step = self.origin[1 - axis], self.step[1 - axis]
            weights.append(bilinear(centres, origin, step, self.values.shape[axis]))
        return np.asarray(weights[0] @ self.values @ weights[1].T, np.float32)

    def to_bytes(self) -> bytes:
        """The map as a NumPy archive, for the journal."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer, values=self.values, origin=np.asarray(self.origin), step=np.asarray(self.step)
        )
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The map that `to_bytes` wrote."""
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            origin, step = archive["origin"], archive["step"]
            return cls(
                values=archive["values"].astype(np.float32),
                origin=(float(origin[0]), float(origin[1])),
                step=(float(step[0]), float(step[1])),
            )


def bilinear(
    places: NDArray[np.floating[Any]], origin: float, step: float, cells: int
) -> NDArray[np.float32]:
    """Weights (places, cells) that sample one axis of a grid whose cell i lies at `origin + i * step`.

    Beyond the outermost cells, their values go on.
    """
    at = np.clip((places - origin) / step, 0, cells - 1)
    return np.asarray(np.maximum(0, 1 - np.abs(at[:, None] - np.arange(cells))), np.float32)
