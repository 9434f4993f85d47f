"""A classifier without torch: the brighter the image, the likelier the finding."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.sr.coding import Code

from pacs_node.heatmap import HeatMap
from pacs_node.records import ModelIdentity, Prediction


@dataclass
class Brightness:
    """Mean brightness as the probability; `fails` makes the next predictions raise, as a broken GPU would."""

    threshold: float = 0.5
    fails: int = 0
    images_seen: int = 0

    @property
    def identity(self) -> ModelIdentity:
        """Says plainly that it is no model."""
        return ModelIdentity(
            id="brightness",
            name="Brightness",
            version="1",
            sha256="0" * 64,
            threshold=self.threshold,
            finding=Code("125605004", "SCT", "Fracture of bone"),
            positive_phrase="Fracture suspected",
            negative_phrase="no fracture suspected",
            negative_caveat="This does not exclude a fracture.",
        )

    def stats(self) -> dict[str, float]:
        """What a worker tells of it in its heartbeat."""
        return {"inference_images": float(self.images_seen)}

    def predict(self, images: Sequence[NDArray[np.float32]]) -> list[Prediction]:
        """One prediction for each image; the heat map's peak is in the middle."""
        if self.fails:
            self.fails -= 1
            raise RuntimeError("the GPU has fallen off the bus")
        self.images_seen += len(images)
        return [self._one(image) for image in images]

    def _one(self, image: NDArray[np.float32]) -> Prediction:
        rows, columns = image.shape
        values = np.zeros((5, 5), np.float32)
        values[2, 2] = 1
        step = (columns / 5, rows / 5)
        return Prediction(round(float(image.mean()), 4), HeatMap(values, (step[0] / 2, step[1] / 2), step))
