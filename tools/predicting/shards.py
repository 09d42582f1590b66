"""Shares images among the workers of a Ray cluster: a model and a journal per worker's shard, the same files as alone."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from backbone.errors import InputError
from tools.predicting.folder import SHARDS, ResultsFolder
from tools.predicting.items import Item
from tools.predicting.settings import Task

IMAGES = 32
"""In a shard, at least: what a lost worker's successor may have to look at again."""
LOCAL = "local"


class Shard(NamedTuple):
    """Consecutive images, in whole batches, so that these are the same as in one process."""

    number: int
    items: list[Item]
    done: set[str]  # keys of images that were done when the run began


def predict_shards(
    items: Sequence[Item],
    folder: ResultsFolder,
    task: Task,
    kinds: Sequence[str],
    *,
    address: str,
    workers: int | None,
) -> Any:
    """Predicts what is not done by workers, each with its own models; returns the `Tally` of all.

    A lost worker's shard is given to another one, which goes on with the shard's journal. All machines must see
    images, weights and output under the same paths.

    Arguments:
        address: of the cluster, or "local".
        workers: models at work; by default one for each machine.

    Raises:
        InputError: no cluster answers, or what `predict_into` raises.
    """
    from tools.predicting.run import Tally

    shards = list(_shards(items, folder, task.batch))
    total = Tally()
    if not shards:
        return total
    with _cluster(address) as ray:
        machines = [node for node in ray.nodes() if node["Alive"]]
        count = min(workers or len(machines), len(shards))
        cores = int(min(node["Resources"].get("CPU", 1) for node in machines))
        per_machine = -(-count // len(machines))
        with_gpu = task.device != "cpu" and ray.cluster_resources().get("GPU", 0) >= count
        absolute = replace(task, weights=[_absolute(path) for path in task.weights])
        found = ray.data.from_items(
            [{"number": shard.number} for shard in shards], override_num_blocks=len(shards)
        ).map(
            ShardPredictor,
            fn_constructor_args=(shards, absolute, tuple(kinds), folder.path.absolute()),
            compute=ray.data.ActorPoolStrategy(size=count),
            num_cpus=max(1, cores // per_machine),
            num_gpus=1 if with_gpu else 0,
        )
        for row in sorted(_rows(ray, found), key=lambda row: row["number"]):
            total.predicted += row["predicted"]
            total.damaged += list(row["damaged"])
            if row["fault"]:
                raise InputError(row["fault"])
    return total


class ShardPredictor:
    """A worker: its models, and the shards that it is given.

    Arguments:
        shards: all of the run.
        kinds: of SAVES.
        folder: of all files, an absolute path.
    """

    def __init__(self, shards: Sequence[Shard], task: Task, kinds: Sequence[str], folder: Path) -> None:
        from tools.predicting.run import load_predictors

        self.shards = {shard.number: shard for shard in shards}
        self.task, self.kinds, self.folder = task, kinds, folder
        self.predictors = load_predictors(task, scores="scores" in kinds)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Predicts what is left of the shard with this number; says how many images, which were damaged, and a fault
        that must end the run, or ""."""
        from tools.predicting.files import ImageFiles
        from tools.predicting.journal import Journal, read_records
        from tools.predicting.reading import read_batches
        from tools.predicting.run import predict_into
        from tools.predicting.writer import ResultsWriter

        shard = self.shards[int(row["number"])]
        journal = self.folder / SHARDS / f"{shard.number:06}.jsonl"
        done = shard.done | read_records(journal).keys()
        answer: dict[str, Any] = {"number": shard.number, "predicted": 0, "damaged": [], "fault": ""}
        try:
            writer = ResultsWriter(ImageFiles(self.folder, self.kinds), Journal(journal), self.task.workers)
            batches = read_batches(
                shard.items, lambda item: item.key in done, batch=self.task.batch, workers=self.task.workers
            )
            tally = predict_into(
                writer,
                batches,
                self.predictors,
                lambda item: item.key in done,
                skip_damaged=self.task.skip_damaged,
            )
        except InputError as error:  # Ray would show it with a traceback of its own, and try again
            return answer | {"fault": str(error)}
        return answer | {"predicted": tally.predicted, "damaged": tally.damaged}


def _shards(items: Sequence[Item], folder: ResultsFolder, batch: int) -> Iterator[Shard]:
    """The shards with an image that is not done."""
    records = folder.records()
    size = -(-IMAGES // batch) * batch
    for number, start in enumerate(range(0, len(items), size)):
        part = [item._replace(path=item.path and item.path.absolute()) for item in items[start : start + size]]
        done = {item.key for item in part if folder.is_done(item, records)}
        if len(done) < len(part):
            yield Shard(number, part, done)


def _absolute(path: Path) -> Path:
    """A file's path as workers find it; a name of published weights stays one."""
    return path.absolute() if path.exists() else path


@contextmanager
def _cluster(address: str) -> Iterator[Any]:
    """Ray, connected, without its reports home.

    Raises:
        InputError: no cluster answers.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # silences a warning about its next version
    import ray
    import ray.data

    try:
        ray.init(
            address=None if address == LOCAL else address,
            include_dashboard=False if address == LOCAL else None,
            log_to_driver=False,
            logging_level="ERROR",
        )
    except (ConnectionError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"--ray {address}: no cluster answers ({reason}); give HOST:PORT of its head, or local"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _rows(ray: Any, found: Any) -> Iterator[dict[str, Any]]:
    """What workers answer, with a progress bar."""
    from tools.io.console import progress

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # ours is below
    with progress("shards") as bar:
        yield from bar.track(found.iter_rows(), total=found.count(), description="predicting")
