"""Puts the page that `make live-demo` builds, if it is there, into the site, and a link to it into the guide."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

BUILT = Path("demo", "browser")
PLACE = "guides/live"
MARKER = "<!-- live demo -->"
LINK = "[**Open the live demo**](live/index.html): both of the demo's models, in this browser."
ABSENT = "*This copy of the site was built without the live demo: `make demo live-demo docs` builds it with it.*"


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    root = Path(config.config_file_path).parent / BUILT
    for path in sorted(root.glob("[!.]*")):
        files.append(File.generated(config, f"{PLACE}/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    built = files.get_file_from_path(f"{PLACE}/index.html") is not None
    return markdown.replace(MARKER, LINK if built else ABSENT)
