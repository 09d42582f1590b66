"""Shares images among the workers of a Ray cluster, each with its own models; the files are those of one process."""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from backbone.errors import InputError
from tools.io.console import progress
from tools.predicting.files import ImageFiles
from tools.predicting.folder import SHARDS, ResultsFolder
from tools.predicting.items import Item
from tools.predicting.journal import Journal, read_records
from tools.predicting.reading import read_batches
from tools.predicting.run import Tally, load_predictors, predict_into
from tools.predicting.settings import Task
from tools.predicting.writer import ResultsWriter

IMAGES = 32
"""In a shard, at least; consecutive ones in whole batches, so that these are the same as in one process."""
LOCAL = "local"


def predict_shards(
    items: Sequence[Item],
    folder: ResultsFolder,
    task: Task,
    kinds: Sequence[str],
    *,
    address: str,
    workers: int | None,
) -> Tally:
    """Predicts what is not done by workers, each with its own models.

    A lost worker's shard is given to another one, which goes on with the shard's journal. All machines must see
    images, weights and output under the same paths.

    Arguments:
        address: of the cluster, or "local".
        workers: models at work; by default one for each machine.

    Raises:
        InputError: no cluster answers, or what `predict_into` raises.
    """
    records = folder.records()
    before = sum(folder.is_done(item, records) for item in items)
    shards = list(_shards(items, folder, task.batch))
    total = Tally()
    if not shards:
        return total
    with _cluster(address) as ray, progress("shards") as bar:
        machines = [node for node in ray.nodes() if node["Alive"]]
        count = min(workers or len(machines), len(shards))
        cores = int(min(node["Resources"].get("CPU", 1) for node in machines))
        per_machine = -(-count // len(machines))
        with_gpu = task.device != "cpu" and ray.cluster_resources().get("GPU", 0) >= count
        absolute = replace(task, weights=[_absolute(path) for path in task.weights])
        answers = ray.data.from_items(shards, override_num_blocks=len(shards)).map(
            ShardPredictor,
            fn_constructor_args=(absolute, tuple(kinds), folder.path.absolute()),
            compute=ray.data.ActorPoolStrategy(size=count),
            num_cpus=max(1, cores // per_machine),
            num_gpus=1 if with_gpu else 0,
        )
        rows = list(bar.track(answers.iter_rows(), total=len(shards), description="predicting"))
    for row in sorted(rows, key=lambda row: row["number"]):
        if row["fault"]:
            raise InputError(row["fault"])
        total.damaged += json.loads(row["damaged"])
    # Not what workers counted: those that were lost cannot tell.
    records = folder.records()
    total.predicted = sum(folder.is_done(item, records) for item in items) - before
    return total


class ShardPredictor:
    """A worker with its models, which is called with shards.

    Arguments:
        kinds: of SAVES.
        folder: of all files, an absolute path.
    """

    def __init__(self, task: Task, kinds: Sequence[str], folder: Path) -> None:
        self.task, self.kinds, self.folder = task, kinds, folder
        self.predictors = load_predictors(task, scores="scores" in kinds)

    def __call__(self, shard: dict[str, Any]) -> dict[str, Any]:
        """Predicts what is left of a shard.

        Arguments:
            shard: a row of `_shards`.

        Returns:
            A row: number of the shard, lines about images that are `damaged` in JSON, and the `fault` that must end
            the run, or "".
        """
        items = [Item(name, stem, image_id, Path(path)) for name, stem, image_id, path in json.loads(shard["items"])]
        journal = self.folder / SHARDS / f"{shard['number']:06}.jsonl"
        done = {*json.loads(shard["done"]), *read_records(journal)}

        def is_done(item: Item) -> bool:
            return item.key in done

        task = self.task
        answer = {"number": shard["number"], "damaged": "[]", "fault": ""}
        try:
            writer = ResultsWriter(ImageFiles(self.folder, self.kinds), Journal(journal), task.workers)
            batches = read_batches(items, is_done, batch=task.batch, workers=task.workers)
            tally = predict_into(writer, batches, self.predictors, is_done, skip_damaged=task.skip_damaged)
        except InputError as error:  # Ray would try again, and show it with a traceback of its own
            return answer | {"fault": str(error)}
        return answer | {"damaged": json.dumps(tally.damaged)}


def _shards(items: Sequence[Item], folder: ResultsFolder, batch: int) -> Iterator[dict[str, Any]]:
    """Rows for the shards with an image that is not done: number, items in JSON, keys of those done before in JSON."""
    records = folder.records()
    size = -(-IMAGES // batch) * batch
    for number, start in enumerate(range(0, len(items), size)):
        part = items[start : start + size]
        done = [item.key for item in part if folder.is_done(item, records)]
        if len(done) < len(part):
            rows = [(item.name, item.stem, item.image_id, os.path.abspath(item.path or "")) for item in part]
            yield {"number": number, "items": json.dumps(rows), "done": json.dumps(done)}


def _absolute(path: Path) -> Path:
    """A file's path as workers find it; a name of published weights stays one."""
    return path.absolute() if path.exists() else path


@contextmanager
def _cluster(address: str) -> Iterator[Any]:
    """Ray, connected, quiet, and without its reports home.

    Raises:
        InputError: no cluster answers.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else a warning about its next version
    import ray
    import ray.data

    local = address == LOCAL
    try:
        ray.init(
            address=address,  # "local" is Ray's word too: always a cluster of its own
            include_dashboard=False if local else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"--ray {address}: no cluster answers ({reason}); give HOST:PORT of its head") from error
    try:
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False  # in favor of ours
        yield ray
    finally:
        ray.shutdown()
