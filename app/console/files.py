"""The page's files: a fixed list, read once; nothing else can be asked for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

PAGE = "index.html"
_FOLDER = Path(__file__).with_name("static")
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
NAMES = (
    PAGE,
    "mark.svg",
    *("page.css", "run.css", "machine.css"),
    *("app.js", "desk.js", "api.js", "schedule.js", "reduce.js", "words.js", "dom.js"),
    *("run.js", "approval.js", "values.js", "markdown.js", "lists.js", "diagram.js", "timeline.js"),
    *("vendor/marked-18.2.1.js", "vendor/dompurify-3.4.18.js"),
)


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file as it is served."""

    content: bytes
    media_type: str
    etag: str


def page_files() -> dict[str, PageFile]:
    """Every file by its name."""
    return {name: _read(_FOLDER / name) for name in NAMES}


def _read(path: Path) -> PageFile:
    content = path.read_bytes()
    return PageFile(content, _TYPES[path.suffix], hashlib.sha256(content).hexdigest()[:32])
