"""Reads and writes architectures as strings: `ir_r3_k5_s2_e3_c40_se0.25_nre` is three inverted residuals.

One string is a run of equal blocks: the kind, then options in any order, joined by underscores.

    kind   ds, dsa, ir, er, era, uir (see rows.KINDS); cn for the stem and the last 1x1 convolution
    r      how many blocks, 1 by default; the stride is the first one's
    k      kernel: 3, 5, 7, …; in uir, 0 for no depthwise convolution after the expansion
    a      uir only: kernel of the depthwise convolution before the expansion, 0 by default
    s      stride: 1 (the default) or 2
    e      expanded channels as a multiple of the block's input
    c      output channels, a multiple of 8
    se     squeezed channels relative to the expanded ones (or to the input, if `squeeze` says so)
    n      re ReLU, r6 ReLU6, hs hard swish; the architecture's by default
    noskip do not add the input
"""

import re
from collections.abc import Callable, Sequence
from string import ascii_lowercase
from typing import Any

from backbone.architectures.plan import BlockPlan, Plan
from backbone.architectures.rows import Architecture, Row, Squeeze
from backbone.errors import InputError

MAX_REPEATS = 100
"""More equal blocks than any published network has; without a limit, one extra digit would build for hours."""

NONLINEARITIES = {"re": "RE", "r6": "R6", "hs": "HS"}
OPTIONS = {
    # kind: options it takes besides r, k, s, c, n; all are required but se, a and noskip
    "cn": (),
    "ds": ("e", "se", "noskip"),
    "dsa": ("e", "se"),
    "ir": ("e", "se", "noskip"),
    "er": ("e", "se", "noskip"),
    "era": ("e",),
    "uir": ("e", "a", "noskip"),
}


def parse(
    definition: str | Sequence[str],
    *,
    stem: int = 32,
    nonlinearity: str = "re",
    hidden: int = 0,
    squeeze: Squeeze = Squeeze(),  # noqa: B008 - a tuple of constants
) -> Architecture:
    """An architecture for `create` and `classifier` from strings in the syntax at the top of this module.

    Arguments:
        definition: strings, or one text of strings separated by blanks. The first may be the stem
            (`cn_k3_s2_c16_nhs`), the last the last 1x1 convolution (`cn_k1_s1_c960_nhs`).
        stem: channels of the stem where no string defines it.
        nonlinearity: of the stem, the last convolution, the hidden layer and all strings without n.
        hidden: channels of the classifier's hidden layer; 0: none.
        squeeze: how squeeze-and-excite is built; by default as in MobileNetV3.

    Raises:
        InputError: names the string, the character and the rule that is broken.
    """
    strings = definition.split() if isinstance(definition, str) else list(definition)
    if nonlinearity not in NONLINEARITIES:
        raise InputError(f"nonlinearity {nonlinearity!r} unknown; valid: {', '.join(NONLINEARITIES)}")
    runs = [(string, _options(string)) for string in strings]
    last = 0
    if runs and runs[0][1]["kind"] == "cn" and runs[0][1]["s"] == 2:
        string, options = runs.pop(0)
        _require(options["k"] == 3, string, "k", "the stem's kernel is 3")
        stem, nonlinearity = options["c"], options["n"] or nonlinearity
    if runs and runs[-1][1]["kind"] == "cn":
        string, options = runs.pop()
        _require(options["k"] == 1 and options["s"] == 1, string, "k", "the last convolution has kernel 1 and stride 1")
        same = options["n"] in (None, nonlinearity)
        _require(same, string, "n", f"the last convolution is activated as the stem, n{nonlinearity}")
        last = options["c"]
    if not runs:
        raise InputError("the definition has no blocks; give strings such as ir_r3_k5_s2_e3_c40_se0.25_nre")
    rows, in_channels = [], stem
    for string, options in runs:
        _require(options["kind"] != "cn", string, "", "cn is only for the stem (k3, s2) and the last convolution (k1)")
        for number in range(options["r"]):
            rows.append(
                Row(
                    kernel=options["k"],
                    expanded=round(options["e"] * in_channels),
                    out=options["c"],
                    squeeze_excite=options["se"],
                    nonlinearity=NONLINEARITIES[options["n"] or nonlinearity],
                    stride=options["s"] if number == 0 else 1,
                    kind=options["kind"],
                    start=options["a"],
                    skip=not options["noskip"],
                )
            )
            in_channels = options["c"]
    return Architecture(
        stem=stem,
        rows=tuple(rows),
        nonlinearity=NONLINEARITIES[nonlinearity],
        last=last,
        hidden=hidden,
        squeeze=squeeze,
    )


def definition(architecture: Architecture, plan: Plan) -> list[str]:
    """The strings of a network's body, with stem and last convolution, and with the channels of its width.

    They leave out the output stride, the classifier's hidden layer and the settings in `Squeeze`.
    """
    activation = f"n{architecture.nonlinearity.lower()}"
    runs: list[tuple[str, int, int, str]] = []  # before r, count, stride, from k on
    for row, block in zip(architecture.rows, plan.blocks, strict=True):
        head, tail = row.kind, _written(row, block)
        if runs and row.stride == 1 and (runs[-1][0], runs[-1][3]) == (head, tail):
            runs[-1] = (head, runs[-1][1] + 1, *runs[-1][2:])
        else:
            runs.append((head, 1, row.stride, tail))
    strings = [f"cn_r1_k3_s2_c{plan.features['stem'].channels}_{activation}"]
    strings += [f"{head}_r{count}_{tail.format(stride=stride)}" for head, count, stride, tail in runs]
    return strings + ([f"cn_r1_k1_s1_c{plan.last}_{activation}"] if plan.last else [])


def _written(row: Row, block: BlockPlan) -> str:
    """All options of a block but r, with the placeholder {stride}."""
    start = f"a{row.start}_" if row.kind == "uir" else ""
    expansion = "" if row.kind in ("ds", "dsa") else f"_e{round(block.expanded / block.in_channels, 4):g}"
    squeeze = f"_se{row.squeeze_excite:g}" if row.squeeze_excite else ""
    skip = "" if row.skip or "noskip" not in OPTIONS[row.kind] else "_noskip"
    return f"{start}k{row.kernel}_s{{stride}}{expansion}_c{block.out}{squeeze}_n{row.nonlinearity.lower()}{skip}"


def _options(string: str) -> dict[str, Any]:
    """A string's options by letter, defaults included."""
    kind, *written = string.split("_")
    if kind not in OPTIONS:
        raise InputError(f"{string!r}, character 1: unknown kind {kind!r}; valid: {', '.join(OPTIONS)}")
    options: dict[str, Any] = {"kind": kind, "r": 1, "s": 1, "e": 1.0, "se": 0.0, "a": 0, "n": None, "noskip": False}
    valid = ("r", "k", "s", "c", "n", *OPTIONS[kind])
    seen: set[str] = set()
    position = len(kind) + 2  # of the option's first character, from 1
    for text in written:
        where = f"{string!r}, character {position}"
        name, value = _split(text)
        if name not in valid:
            raise InputError(f"{where}: {text!r} is no option of {kind}; valid: {', '.join(valid)}")
        if name in seen:
            raise InputError(f"{where}: {text!r} repeats an option; leave one out")
        options[name] = _value(name, value, f"{string!r}, character {position + len(name)}")
        seen.add(name)
        position += len(text) + 1
    for name in ("k", "c", *(("e",) if kind in ("ir", "er", "era", "uir") else ())):
        if name not in seen:
            raise InputError(f"{string!r}, character {len(string) + 1}: {name} is missing; {kind} needs it")
    spatial = options["k"] or options["a"]
    _require(bool(options["k"]) or kind == "uir", string, "k", "only uir may leave out the depthwise convolution")
    _require(options["s"] == 1 or bool(spatial), string, "s", "a stride needs a depthwise convolution")
    _require(options["r"] <= MAX_REPEATS, string, "r", f"at most {MAX_REPEATS} blocks of a row")
    _require(options["e"] == 1 or kind not in ("ds", "dsa"), string, "e", f"{kind} does not expand")
    return options


def _split(text: str) -> tuple[str, str]:
    """An option's name and value: "se0.25" -> ("se", "0.25"), "nre" -> ("n", "re")."""
    if text == "noskip":
        return text, ""
    if text[:1] == "n":
        return "n", text[1:]
    value = text.lstrip(ascii_lowercase)
    return text.removesuffix(value), value


CHECKS: dict[str, tuple[str, Callable[[float], bool], str]] = {
    # option: pattern of its value, condition, the condition in words
    "r": (r"\d+", lambda value: value >= 1, "a number of blocks of at least 1"),
    "k": (r"\d+", lambda value: value == 0 or value % 2 == 1, "an odd kernel, or 0 in uir"),
    "a": (r"\d+", lambda value: value == 0 or value % 2 == 1, "an odd kernel, or 0 for none"),
    "s": (r"\d+", lambda value: value in (1, 2), "1 or 2"),
    "c": (r"\d+", lambda value: value >= 8 and value % 8 == 0, "channels, a multiple of 8"),
    "e": (r"\d+(\.\d+)?", lambda value: value > 0, "a factor above 0"),
    "se": (r"\d+(\.\d+)?", lambda value: 0 <= value <= 1, "a part between 0 and 1"),
}


def _value(name: str, value: str, where: str) -> str | int | float | bool:
    if name == "noskip":
        return True
    if name == "n":
        if value not in NONLINEARITIES:
            raise InputError(f"{where}: {value!r} must be one of {', '.join(NONLINEARITIES)}")
        return value
    pattern, fulfils, words = CHECKS[name]
    if not re.fullmatch(pattern, value) or not fulfils(float(value)):
        raise InputError(f"{where}: {value!r} must be {words}")
    return float(value) if name in ("e", "se") else int(value)


def _require(fulfilled: bool, string: str, option: str, rule: str) -> None:
    """Raises an error that points at the option whose rule is broken, or at the string's end if it is not there."""
    if not fulfilled:
        found = re.search(f"_{option}", string) if option else None
        position = 1 if not option else found.start() + 2 if found else len(string) + 1
        raise InputError(f"{string!r}, character {position}: {rule}")
