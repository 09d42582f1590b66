"""Looks over the machine and the installation in a few seconds, and says what to do about what is wrong.

    python -m tools.doctor
    python -m tools.doctor --out runs/large --data /data/cityscapes

Packages and their versions, OpenCV's wheels, display, shared memory, disk, memory, threads, GPU, and the data's folder.
Exit code 1 if something will not work; a note is no fault.
"""

from pathlib import Path

from tools.io.console import command_parser, console, run


def main(argv: list[str] | None = None) -> int:
    parser = command_parser("doctor", __doc__)
    parser.add_argument("--out", type=Path, default=Path("runs"), help="where runs will be written; default: runs")
    parser.add_argument("--data", type=Path, metavar="ROOT", help="the data set's folder, as data.root")
    arguments = parser.parse_args(argv)
    # After the arguments: torch takes seconds to import.
    from tools.doctoring.checks import FAULT, examine

    findings = examine(arguments.out, arguments.data)
    for finding in findings:
        console.out(f"{finding.level:<5}  {finding.text}{f'; {finding.cure}' if finding.cure else ''}")
    faults = sum(finding.level == FAULT for finding in findings)
    console.out(f"{faults} fault{'s' if faults > 1 else ''}" if faults else "no faults")
    return 1 if faults else 0


if __name__ == "__main__":
    run(main)
