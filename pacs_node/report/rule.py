"""One rule that an object of ours must keep."""

from __future__ import annotations

from pydicom.dataset import Dataset

from pacs_node.errors import CheckError


def require(kept: bool, dataset: Dataset, rule: str) -> None:
    """Raise CheckError with the object's UID and the rule unless it is kept."""
    if not kept:
        raise CheckError(f"{dataset.get('SOPInstanceUID') or 'an object without SOPInstanceUID'}: {rule}")
