"""A classifier without torch: the brighter the image, the likelier the finding."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from pydicom.sr.coding import Code

from pacs_node.heatmap import HeatMap
from pacs_node.records import ModelIdentity, Prediction

BRIGHTNESS = ModelIdentity(
    id="brightness",
    name="Brightness",
    version="1",
    sha256="0" * 64,
    threshold=0.5,
    finding=Code("125605004", "SCT", "Fracture of bone"),
    positive_phrase="Fracture suspected",
    negative_phrase="no fracture suspected",
    negative_caveat="This does not exclude a fracture.",
)


@dataclass
class Brightness:
    """Answers with `probabilities`, one an image, and when they are used up with the mean brightness.

    `fails` makes that many predictions raise, as a broken GPU would.
    """

    threshold: float = 0.5
    fails: int = 0
    images_seen: int = 0
    probabilities: list[float] = field(default_factory=list)
    cells: tuple[int, int] = (5, 5)
    """Rows and columns of the heat maps."""
    hottest: tuple[int, int] = (2, 2)
    """Row and column of the only cell that is hot."""
    model: ModelIdentity = BRIGHTNESS

    @property
    def identity(self) -> ModelIdentity:
        """The model that the reports name."""
        return replace(self.model, threshold=self.threshold)

    def stats(self) -> dict[str, float]:
        """Figures for the worker's heartbeat."""
        return {"inference_images": float(self.images_seen)}

    def predict(self, images: Sequence[NDArray[np.float32]]) -> list[Prediction]:
        """One prediction for each image."""
        if self.fails:
            self.fails -= 1
            raise RuntimeError("the GPU has fallen off the bus")
        self.images_seen += len(images)
        return [self._predict(image) for image in images]

    def _predict(self, image: NDArray[np.float32]) -> Prediction:
        values = np.zeros(self.cells, np.float32)
        values[self.hottest] = 1
        step = (image.shape[1] / self.cells[1], image.shape[0] / self.cells[0])
        probability = self.probabilities.pop(0) if self.probabilities else round(float(image.mean()), 4)
        return Prediction(probability, HeatMap(values, (step[0] / 2, step[1] / 2), step))
