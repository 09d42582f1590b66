"""OpenVINO's entry to the machine, one for the process."""

from functools import cache
from typing import Any


@cache
def openvino_core() -> Any:
    """The process's only `openvino.Core`, which lives as long as the process.

    On processors of AVX512 a core gives the calling thread a stack for signals, and its end gives back the one before.
    With several cores that do not end in turn this is memory already freed, and the next signal, an interrupt or the
    end of a child, kills the process (OpenVINO 2026.4).
    """
    import openvino

    return openvino.Core()
