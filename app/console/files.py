"""The files of the page: a fixed list that is read once. No other file is served."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

PAGE = "index.html"
_DIRECTORY = Path(__file__).with_name("static")
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
NAMES = (
    PAGE,
    "mark.svg",
    *("page.css", "run.css", "machine.css"),
    *("app.js", "controller.js", "api.js", "timers.js", "run_state.js", "translations.js", "format.js", "dom.js"),
    *("json.js", "markdown_limits.js"),
    *("run.js", "approval.js", "values.js", "markdown.js", "lists.js", "diagram.js", "timeline.js"),
    *("vendor/marked-18.2.1.js", "vendor/dompurify-3.4.18.js"),
)


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file as it is served, with a strong ETag."""

    content: bytes
    media_type: str
    etag: str


def page_files() -> dict[str, PageFile]:
    """Return every file by its name."""
    return {name: _read_file(_DIRECTORY / name) for name in NAMES}


def _read_file(path: Path) -> PageFile:
    content = path.read_bytes()
    return PageFile(content, _MEDIA_TYPES[path.suffix], hashlib.sha256(content).hexdigest()[:32])
