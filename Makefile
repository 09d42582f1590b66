# make demo, make test, make lint, make docs: each builds .venv first where it is missing or pyproject.toml has changed.
PYTHON ?= python3
DEMO ?=
TESTS ?=
BIN := .venv/bin

.PHONY: demo test lint docs browser-runtime live-demo clean
demo: .venv/installed
	$(BIN)/python -m tools.demo $(DEMO)

test: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist worksteal $(TESTS)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# ONNX Runtime for tools.browser and its tests: npm fetches it once, into the cache folder.
browser-runtime: .venv/installed
	$(BIN)/python -m tools.browsing.runtime

# The page for both of the demo's models, after make demo; make docs then puts it into the site.
live-demo: browser-runtime
	$(BIN)/python -m tools.browser --weights demo/seg/best.safetensors --weights demo/det/best.safetensors demo/browser

# Everything else that the site shows is in the checkout, so building it needs no network. A broken link is an error.
docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "open site/index.html, or, for the search, $(BIN)/python -m http.server --directory site"

# albumentations brings opencv-python-headless, whose cv2/ takes the place of opencv-python's, the one with windows:
# so opencv-python is installed once more, last.
.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv: about 5 GB, two minutes"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,docs,fast-eval]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps 'opencv-python>=4.13'
	touch .venv/installed

clean:
	rm -rf .venv demo site .pytest_cache .ruff_cache
