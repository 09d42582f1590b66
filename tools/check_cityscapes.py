"""The former name of `tools.check_masks`."""

from tools.check_masks import main
from tools.io.console import run

if __name__ == "__main__":
    run(main)
