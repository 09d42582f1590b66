"""One run of `tools.predict`: opens source, models and folder, and sends every image through the models."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backbone.errors import InputError
from tools.io.console import console, progress
from tools.io.packages import require
from tools.predicting.files import check_kinds, default_kinds
from tools.predicting.folder import DAMAGED, ResultsFolder, fingerprint
from tools.predicting.items import Item, find_images
from tools.predicting.journal import Journal
from tools.predicting.models import load
from tools.predicting.pairs import pairs, parts
from tools.predicting.reading import Loaded, read_batches, read_frames
from tools.predicting.settings import FOLDERS, Saving, Task
from tools.predicting.writer import ResultsWriter
from tools.run.lock import lock_folder
from tools.streams.pipeline import tolerated_shortfall
from tools.streams.sources import VideoFile, open_source, without_password

TRUNCATED = 3
"""Exit code of a video that ends before the length it promises, as tools.video's."""


@dataclass
class Tally:
    """What a run did."""

    predicted: int = 0
    damaged: list[str] = field(default_factory=list)  # a line for each image that was passed over


def predict(task: Task, saving: Saving, *, ray_address: str | None = None, ray_workers: int | None = None) -> int:
    """Predicts what is not yet done, prints a line about it, and returns the exit code.

    Arguments:
        ray_address: of a Ray cluster that shares the work; "local" starts one on this machine.
        ray_workers: models at work there.

    Raises:
        InputError: anything that the user gave and that cannot be used.
    """
    if ray_address is not None:
        require("--ray", ("ray",), "run pip install 'taproot[ray]'")
    items = find_images(task.source)
    video = None if items is not None else open_video(task.source)
    if video is not None and ray_address is not None:
        raise InputError(f"--source {task.source}: a video is read from its start by one process; leave --ray out")
    refuse_overlap(task.source, saving.folder, items or [])
    predictors = load_predictors(task, scores="scores" in (saving.kinds or ()))
    heads = parts(predictors)
    kinds = saving.kinds or default_kinds([part.task for part in heads])
    check_kinds(kinds, heads)
    lock = lock_folder(saving.folder, is_main=True, use="predicts into this folder", cure="choose another --output")
    with lock:
        folder = ResultsFolder(saving.folder, kinds, heads, settings_of(task, predictors), saving.overwrite)
        records = folder.records()
        start = time.perf_counter()
        if items is None:
            assert video is not None  # one of the two
            frames: list[Item] = []
            batches = read_frames(
                video, Path(task.source).name, done_before(folder, records), batch=task.batch, seen=frames
            )
            tally = predict_batches(batches, predictors, folder, records, task, total=video.frames_expected, before=0)
            items = frames
        elif ray_address is None:
            is_done = done_before(folder, records)
            batches = read_batches(items, is_done, batch=task.batch, workers=task.workers)
            before = sum(map(is_done, items))
            tally = predict_batches(batches, predictors, folder, records, task, total=len(items), before=before)
        else:
            from tools.predicting.shards import predict_shards

            tally = predict_shards(items, folder, task, kinds, address=ray_address, workers=ray_workers)
        seconds = time.perf_counter() - start
        folder.finish(items, tally.damaged)
    return report(task, folder, tally, items, predictors, seconds, video)


def report(
    task: Task,
    folder: ResultsFolder,
    tally: Tally,
    items: Sequence[Item],
    predictors: Sequence[Any],
    seconds: float,
    video: VideoFile | None,
) -> int:
    """Prints how the run ended; its exit code."""
    engines = " and ".join(dict.fromkeys(predictor.engine for predictor in predictors))
    before = len(items) - tally.predicted - len(tally.damaged)
    resumed = f", {before} were done before" if before else ""
    speed = f"{tally.predicted / seconds:.1f} images/s, engine {engines}"
    console.print(f"{tally.predicted} images -> {folder.path} ({speed}){resumed}", soft_wrap=True)
    if tally.damaged:
        where = folder.path / DAMAGED
        console.print(
            f"{len(tally.damaged)} damaged images were passed over; they are named in {where}", soft_wrap=True
        )
    expected = None if video is None else video.frames_expected
    if video is not None and expected is not None and expected - len(items) > tolerated_shortfall(expected, video.fps):
        console.print(f"truncated: {task.source} ended after {len(items)} of {expected} frames", soft_wrap=True)
        return TRUNCATED
    return 0


def predict_batches(
    batches: Iterable[list[Loaded]],
    predictors: Sequence[Any],
    folder: ResultsFolder,
    records: dict[str, dict[str, Any]],
    task: Task,
    *,
    total: int | None,
    before: int,
) -> Tally:
    """Predicts batches and writes what is found into the folder and its journal; shows a progress bar.

    Arguments:
        records: of what was done before.
        total: images of the source, where it is known.
        before: how many of them were done before.
    """
    start = time.perf_counter()
    with progress("{task.fields[speed]:.1f} images/s") as bar:
        shown = bar.add_task("predicting", total=total, completed=before, speed=0.0)

        def on_batch(predicted: int) -> None:
            speed = predicted / (time.perf_counter() - start)
            bar.update(shown, completed=before + predicted, speed=speed)

        writer = ResultsWriter(folder.files, Journal(folder.journal), task.workers)
        return predict_into(
            writer, batches, predictors, done_before(folder, records), skip_damaged=task.skip_damaged, on_batch=on_batch
        )


def predict_into(
    writer: ResultsWriter,
    batches: Iterable[list[Loaded]],
    predictors: Sequence[Any],
    is_done: Callable[[Item], bool],
    *,
    skip_damaged: bool,
    on_batch: Callable[[int], None] | None = None,
) -> Tally:
    """Predicts batches; whatever ends it, what was predicted is written and the writer closed.

    Arguments:
        on_batch: called with the number of images predicted so far.

    Raises:
        InputError: an image is damaged, unless `skip_damaged`, or a file cannot be written.
    """
    tally = Tally()
    try:
        for batch in batches:
            for loaded in batch:
                if loaded.image is None:
                    if not skip_damaged:
                        raise InputError(f"{loaded.fault}, or give --skip-damaged")
                    tally.damaged.append(loaded.fault)
            whole = [(loaded.item, loaded.image) for loaded in batch if loaded.image is not None]
            if not whole:
                continue
            images = [image for _, image in whole]
            found = [predictor(images) for predictor in predictors]
            for (item, image), row in zip(whole, zip(*found, strict=True), strict=True):
                if not is_done(item):
                    writer.submit(item, image, pairs(predictors, row))
                    tally.predicted += 1
            if on_batch is not None:
                on_batch(tally.predicted)
    finally:
        writer.close()
    return tally


def done_before(folder: ResultsFolder, records: dict[str, dict[str, Any]]) -> Callable[[Item], bool]:
    """Whether an image was done by an earlier run."""
    return lambda item: folder.is_done(item, records)


def load_predictors(task: Task, *, scores: bool) -> list[Any]:
    """The models, ready for images."""
    common: dict[str, Any] = {"size": task.size, "device": task.device, "score_threshold": task.score_threshold}
    return [load(path, task.engine, scores=scores, nms=task.nms, **common) for path in task.weights]


def settings_of(task: Task, predictors: Sequence[Any]) -> dict[str, Any]:
    """What must be equal for a run to go on with another's folder, as JSON gives it back."""
    return {
        "weights": [fingerprint(path) for path in task.weights],
        "source": str(Path(task.source).absolute()),
        "engine": [predictor.engine for predictor in predictors],
        "size": list(task.size) if isinstance(task.size, tuple) else task.size,
        "score_threshold": task.score_threshold,
    } | ({} if task.nms else {"nms": False})


def open_video(source: str) -> VideoFile:
    """The video in a file."""
    video = open_source(source)
    if not isinstance(video, VideoFile):
        raise InputError(f"--source {without_password(source)}: is no image, list or video file")
    return video


def refuse_overlap(source: str, folder: Path, items: Sequence[Item]) -> None:
    """No run may read what it writes, nor replace what it reads.

    Raises:
        InputError: the folder for the output is, or lies in, the source's folder, or images lie where files will.
    """
    output = folder.resolve()
    place = Path(source).resolve()
    if place.is_dir() and (output == place or place in output.parents):
        raise InputError(f"--output {folder}: lies in the source, where the next run would read it; choose another")
    taken = {output / kind for kind in FOLDERS}
    for item in items:
        if item.path is not None and not taken.isdisjoint(item.path.resolve().parents):
            raise InputError(f"--output {folder}: {item.path} lies where files would be written; choose another folder")
