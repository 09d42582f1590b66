"""Saves what is found in the frames of `tools.video`, as `tools.predict` does."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from backbone.errors import InputError
from tools.predicting.files import Results, check_kinds, default_kinds
from tools.predicting.folder import HEADER, ResultsFolder, fingerprint
from tools.predicting.items import Item, frame_item, name_images
from tools.predicting.journal import Journal
from tools.predicting.pairs import parts
from tools.predicting.run import refuse_overlap
from tools.predicting.settings import Saving
from tools.predicting.writer import ResultsWriter
from tools.streams.frames import Frame
from tools.streams.sources import Images, Source, without_password

WORKERS = 1
"""Threads that write; reading, models and drawing have the other cores."""


class FrameSaver:
    """Writes files for each frame in the background, and the tables at the end.

    Arguments:
        source: as the user gave it.
        stream: what it was opened as.
        predictors: the models, which do one task each or different ones.
        weights: their files.

    Raises:
        InputError: the folder holds other predictions, or the models do not make what is to be saved.
    """

    def __init__(
        self,
        saving: Saving,
        *,
        source: str,
        stream: Source,
        predictors: Sequence[Any],
        weights: Sequence[Path],
        score_threshold: float,
    ) -> None:
        heads = parts(predictors)
        kinds = saving.kinds or default_kinds([part.task for part in heads])
        check_kinds(kinds, heads)
        images = name_images(stream.paths, Path(stream.paths[0]).parent) if isinstance(stream, Images) else []
        refuse_overlap(source, saving.folder, images)
        if (saving.folder / HEADER).is_file() and not saving.overwrite:
            raise InputError(f"--save-to {saving.folder}: holds predictions; give --overwrite, or another folder")
        settings = {
            "weights": [fingerprint(path) for path in weights],
            "source": without_password(source),
            "engine": [predictor.engine for predictor in predictors],
            "score_threshold": score_threshold,
        }
        self.folder = ResultsFolder(saving.folder, kinds, heads, settings, saving.overwrite)
        self._image_of = {image.path: image for image in images}
        self._name = Path(source).name if Path(source).is_file() else stream.name
        self._items: list[Item] = []
        self._writer = ResultsWriter(self.folder.files, Journal(self.folder.journal), WORKERS)

    def write(self, frame: Frame, results: Results, drawn: np.ndarray) -> None:
        """Takes a frame's results; waits while too many frames are being written.

        Arguments:
            drawn: the frame with them, uint8 BGR [H, W, 3].

        Raises:
            InputError: an earlier frame's files cannot be written.
        """
        if frame.path is None:
            item = frame_item(self._name, frame.index, frame.seconds)
        else:
            item = self._image_of[frame.path]
        self._items.append(item)
        self._writer.submit(item, frame.image, results, drawn)

    def finish(self, *, complete: bool) -> None:
        """Waits for the files and writes the tables.

        Arguments:
            complete: whether all of the source was seen.
        """
        self._writer.close()
        self.folder.finish(self._items, [], complete=complete)

    def abandon(self) -> None:
        """Ends after a failure; what was written stays, without tables."""
        self._writer.abandon()
