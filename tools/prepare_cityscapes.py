"""The former name of `tools.prepare_masks`."""

from tools.io.console import run
from tools.prepare_masks import main

if __name__ == "__main__":
    run(main)
