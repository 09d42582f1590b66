"""Opens a data set for segmentation: Cityscapes, or folders that a classes file describes."""

from collections.abc import Collection
from pathlib import Path

from backbone.errors import InputError
from seg.data.cityscapes import Cityscapes
from seg.data.dataset import SegDataset, Transform
from seg.data.folder import Folder
from seg.data.prepared import Prepared


def open_data(
    root: str | Path,
    split: str,
    transform: Transform | None = None,
    *,
    classes: str | Path | None = None,
    annotation: str = "gtFine",
    prepared: str | Path | None = None,
    seed: int = 0,
    limit: int | None = None,
    faults: list[str] | None = None,
    leave_out: Collection[Path] = (),
) -> SegDataset:
    """A `Folder` if a classes file is given, else `Cityscapes`; both say more about the arguments.

    Arguments:
        classes: the classes file.
        annotation: of Cityscapes: "gtFine" or "gtCoarse".
        prepared: the folder of a prepared copy to read from; see `seg.data.prepared`.

    Raises:
        InputError: the data set or the prepared copy is missing, incomplete or damaged.
    """
    if classes is not None:
        if annotation != "gtFine":
            raise InputError(
                f"labels {annotation}: are Cityscapes'; with a classes file, its key `masks` says where labels are"
            )
        dataset = Folder(root, split, classes, transform, seed=seed, limit=limit, faults=faults, leave_out=leave_out)
    else:
        dataset = Cityscapes(
            root, split, transform, annotation=annotation, seed=seed, limit=limit, faults=faults, leave_out=leave_out
        )
    if prepared is not None:
        dataset.prepared = Prepared(prepared, dataset)
    return dataset
