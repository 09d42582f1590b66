"""The model card: README.md with the metadata that Hugging Face's hub reads, and a text for people."""

import re
from dataclasses import dataclass
from typing import Any

import yaml

from tools.publishing.metrics import Scored
from tools.publishing.tasks import DEFAULT_BACKBONE, HEADS, TASKS
from tools.scoring.metrics_file import percent

EXAMPLE = "example.jpg"
FILES = {
    "model.safetensors": "the weights; their header describes the model, so that this one file is enough",
    "config.json": "the same description, to read",
    "config.yaml": "the settings of the training",
    "report.html": "the evaluation's report, which opens offline",
}
"""What a folder may hold beside README.md and EXAMPLE, and what the card says of it."""
MOST_CLASSES = 200
"""Of a model with more, config.json names them and the card does not."""


@dataclass(frozen=True)
class Card:
    """What a model card is written from."""

    name: str  # OWNER/REPOSITORY
    description: dict[str, Any]  # the weights' header
    num_parameters: int
    licence: str | None  # the hub's identifier
    data: str | None  # name of the data that it was trained and scored on
    terms: str | None  # the data's
    initial: str | None  # weights that training began with
    initial_terms: str | None
    scored: Scored | None
    files: tuple[str, ...]  # names in the folder


def network_of(description: dict[str, Any]) -> str:
    """The name of the backbone that a header describes."""
    model = description["model"]
    return model["name"] if "name" in model else model.get("backbone", DEFAULT_BACKBONE)


def head_of(description: dict[str, Any]) -> str | None:
    """The head's name as `create` takes it; None of a classifier."""
    return description["model"].get("head", TASKS[description["task"]].head)


def slug(text: str) -> str:
    """A text as the hub's identifiers are: small letters, digits, _, and single hyphens between them."""
    return re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-_") or "other"


def default_name(description: dict[str, Any], data: str | None) -> str:
    """A repository's name made of head, network and data, short enough for the hub."""
    parts = (head_of(description), network_of(description), data)
    return slug(" ".join(part for part in parts if part is not None)[:80])


def escape(text: str) -> str:
    """A text on one line that Markdown and HTML leave as it is, in a table too."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&$!])", r"\\\1", " ".join(text.split()))


def write_card(card: Card) -> str:
    """The whole README.md."""
    metadata = yaml.safe_dump(make_metadata(card), sort_keys=False, allow_unicode=True)
    parts = [_title(card), _use(card), _metrics(card), _data(card), _network(card), _limits(card), _files(card)]
    return f"---\n{metadata}---\n\n" + "\n".join(parts)


def make_metadata(card: Card) -> dict[str, Any]:
    """The metadata block, by the hub's keys."""
    task = TASKS[card.description["task"]]
    network, head = network_of(card.description), head_of(card.description)
    metadata: dict[str, Any] = {}
    if card.licence is not None:
        metadata["license"] = card.licence
    metadata |= {"library_name": "taproot", "pipeline_tag": task.pipeline}
    metadata["tags"] = [slug(tag) for tag in ("taproot", head, network) if tag is not None]
    if card.initial is not None and card.initial.startswith(("timm/", "hub/")):
        metadata["base_model"] = card.initial.removeprefix("hub/").partition("@")[0]
    if card.data is not None:
        metadata["datasets"] = [slug(card.data)]
    if card.scored is not None and card.data is not None:
        values = card.scored.values
        metrics = [
            {"type": metric.hub_type, "value": round(values[metric.key], 4), "name": metric.name}
            for metric in task.metrics
            if metric.key in values
        ]
        result = {
            "task": {"type": task.pipeline},
            "dataset": {"name": card.data, "type": slug(card.data), "split": card.scored.split},
            "metrics": metrics,
        }
        metadata["model-index"] = [{"name": card.name.partition("/")[2], "results": [result]}]
    return metadata


def table(columns: list[str], rows: list[list[str]]) -> str:
    """A Markdown table of text; the first column is aligned left, the others right."""
    rules = ["---", *["---:"] * (len(columns) - 1)]
    lines = [columns, rules, *[[escape(cell) for cell in row] for row in rows]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _title(card: Card) -> str:
    task, head, network = TASKS[card.description["task"]], head_of(card.description), network_of(card.description)
    called = network if head is None else f"{HEADS.get(head, head)} on {network}"
    trained = "" if card.data is None else f", trained on {card.data}"
    text = f"# {escape(card.name.partition('/')[2])}\n\n"
    text += f"{escape(called + trained)}: a network that {task.does.format(count=_num_classes(card))}. "
    text += "Made with Taproot, a suite for dense prediction with small networks.\n"
    if EXAMPLE in card.files:
        text += f"\n![What the model finds in an image]({EXAMPLE})\n"
    return text


def _use(card: Card) -> str:
    name = f"hub/{card.name}"
    if card.description["task"] == "classification":
        lines = f'import backbone\n\nfound = backbone.from_weights("{name}")\nlogits = found.classifier(images)'
        lines += "  # images [N, 3, H, W], normalised by found.mean and found.std"
    else:
        lines = f'from tools.predict import load\n\nmodel = load("{name}")\nresult = model(frame_bgr)'
        lines += "  # an image as OpenCV reads it, uint8 [H, W, 3]"
    text = f"## Use\n\nWith Taproot and its extra `hub` installed:\n\n```python\n{lines}\n```\n\n"
    if card.description["task"] == "classification":
        return text + f"As the start of a training: the key `weights={name}`.\n"
    found = {
        "segmentation": "`result.labels` has a class for each pixel,",
        "detection": "`result.boxes`, `.scores` and `.labels` are the objects, best first;",
    }[card.description["task"]]
    text += f"{found} `result.draw(frame_bgr)` gives an image. The name also stands for a file on command lines:\n\n"
    return text + f"```sh\npython -m tools.video --weights {name} --source in.mp4 --output out.mp4\n```\n"


def _metrics(card: Card) -> str:
    task, scored = TASKS[card.description["task"]], card.scored
    text = "## Metrics\n\n"
    if scored is None:
        text += "No evaluation of its own is published with this model."
        first = task.metrics[0]
        if (value := card.description.get("metrics", {}).get(first.key)) is not None:
            text += (
                f" The best one during training gave {first.name} {percent(value)} %, perhaps on a part of the split."
            )
        text += "\n"
    else:
        named = "" if card.data is None else f"{escape(card.data)}, "
        text += f"On {named}split {escape(scored.split)}, {scored.images} images. {_sentence(scored.protocol)}\n\n"
        rows = [
            [metric.name, percent(scored.values[metric.key])] for metric in task.metrics if metric.key in scored.values
        ]
        text += table(["metric", "%"], rows)
    return f"{text}\n{_classes(card)}"


def _classes(card: Card) -> str:
    task, classes = TASKS[card.description["task"]], card.description["classes"]
    text = "## Classes\n\n"
    if classes is None:
        return f"{text}{_num_classes(card)} classes, of which the file has no names.\n"
    if len(classes) > MOST_CLASSES:
        return f"{text}{len(classes)} classes; `config.json` names them in the order of the outputs.\n"
    if card.scored is None or not card.scored.per_class:
        return f"{text}In the order of the outputs: {', '.join(map(escape, classes))}.\n"
    per_class = card.scored.per_class
    rows = [[name, percent(per_class[name]) if name in per_class else "absent"] for name in classes]
    text += "In the order of the outputs; a class that the split does not show is absent.\n\n"
    return text + table(["class", f"{task.per_class_name} %"], rows)


def _data(card: Card) -> str:
    text = "" if card.data is None else f"Trained on {escape(card.data)}. "
    if card.terms is None:
        text += "The data's terms are not stated here; ask the publisher."
    elif card.terms.lower().startswith("trained on "):
        text = _sentence(card.terms)
    else:
        text += _sentence(card.terms)
    if card.initial is not None:
        text += f"\n\nTraining began with the weights {escape(card.initial)}"
        text += "." if card.initial_terms is None else f": {escape(card.initial_terms)}."
    licence = "not stated; ask the publisher" if card.licence is None else escape(card.licence)
    return f"## Data and terms\n\n{text}\n\nLicence of the weights: {licence}.\n"


def _network(card: Card) -> str:
    head = head_of(card.description)
    rows = [["backbone", network_of(card.description)]]
    rows.append(["width", f"{card.description['model'].get('width', 1.0):g}"])
    if head is not None:
        rows.insert(0, ["head", head])
    rows.append(["parameters", f"{card.num_parameters / 1e6:.2f} million"])
    rows.append(["input", _input(card)])
    for key in ("mean", "std"):
        rows.append([f"{key}, of RGB in 0..1", ", ".join(f"{value:g}" for value in card.description[key])])
    if "step" in card.description:
        rows.append(["training steps", str(card.description["step"])])
    return f"## Network\n\n{table(['', ''], rows)}"


def _input(card: Card) -> str:
    """The size of the network's input, in words."""
    if card.description["task"] == "segmentation":
        return "images of any size"
    if card.description["task"] == "classification":
        return f"central crops of {card.description['size']}x{card.description['size']}"
    size = card.description["model"].get("image_size", 320)
    height, width = (size, size) if isinstance(size, int) else size
    return f"images resized to {height}x{width} (height x width)"


def _limits(card: Card) -> str:
    own = TASKS[card.description["task"]].limit
    data = "the training's data" if card.data is None else escape(card.data)
    return (
        f"## Limits\n\n{own} What was measured holds for images like those of {data}; it can be much worse with other "
        "cameras, places, seasons or weather. Measure on your own data before you rely on it, and do not let safety "
        "depend on it alone.\n"
    )


def _files(card: Card) -> str:
    return "## Files\n\n" + "".join(f"- `{name}`: {FILES[name]}\n" for name in FILES if name in card.files)


def _num_classes(card: Card) -> int:
    classes = card.description["classes"]
    return card.description["model"]["num_classes"] if classes is None else len(classes)


def _sentence(text: str) -> str:
    """A text as a sentence of its own, escaped."""
    text = " ".join(text.split())
    return escape(text[:1].upper() + text[1:]) + ("" if text.endswith((".", "!", "?")) else ".")
