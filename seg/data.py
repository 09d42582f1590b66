"""Opens a data set for segmentation: Cityscapes, or one's own where a classes file is given."""

from pathlib import Path

from seg.cityscapes import Cityscapes
from seg.dataset import SegDataset, Transform
from seg.folder import Folder


def open_data(
    root: str | Path,
    split: str,
    transform: Transform | None = None,
    *,
    classes: str | Path | None = None,
    annotation: str = "gtFine",
    seed: int = 0,
    limit: int | None = None,
    faults: list[str] | None = None,
) -> SegDataset:
    """`Folder` with the classes file `classes`, else `Cityscapes` with the labels `annotation`; see these."""
    if classes is not None:
        return Folder(root, split, classes, transform, seed=seed, limit=limit, faults=faults)
    return Cityscapes(root, split, transform, annotation=annotation, seed=seed, limit=limit, faults=faults)
