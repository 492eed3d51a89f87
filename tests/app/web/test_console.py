"""The console's files and one-time codes over HTTP, and rules for its sources."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from app.clock import SystemClock
from app.console import files
from app.settings import Settings
from app.web.one_time_codes import OneTimeCodes
from tests.harness.clock import frozen_clock
from tests.harness.service import SECRET, running

MakeSettings = Callable[..., Settings]
STATIC = Path(files.__file__).with_name("static")
OWN = [path for path in sorted(STATIC.iterdir()) if path.suffix in (".js", ".html", ".css")]


def name(path: Path) -> str:
    return path.name


async def test_console_is_disabled_by_default(settings: MakeSettings) -> None:
    async with running(settings()) as aura:
        for path in ("/aura/console", "/aura/console/app.js", "/aura/console/token"):
            assert (await aura.client.get(path)).status_code == 404
    assert Settings.from_environment({"AURA_CONSOLE": "1", "JWT_SECRET": SECRET}).aura_console


async def test_files_have_a_strict_content_security_policy_and_are_revalidated(settings: MakeSettings) -> None:
    async with running(settings(aura_console=True)) as aura:
        for path in ("/aura/console", *(f"/aura/console/{name}" for name in files.NAMES if name != files.PAGE)):
            first = await aura.client.get(path)
            assert first.status_code == 200
            policy = first.headers["Content-Security-Policy"]
            assert "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert first.headers["X-Content-Type-Options"] == "nosniff"
            assert first.headers["Referrer-Policy"] == "no-referrer"
            again = await aura.client.get(path, headers={"If-None-Match": first.headers["ETag"]})
            assert (again.status_code, again.content) == (304, b"")
        script = await aura.client.get("/aura/console/app.js")
        assert script.headers["Content-Type"] == "text/javascript; charset=utf-8"


async def test_only_the_listed_files_are_served(settings: MakeSettings) -> None:
    async with running(settings(aura_console=True)) as aura:
        for path in ("index.html", "vendor/README.md", "nothing.js", "../files.py", "..%2ffiles.py", "vendor/"):
            assert (await aura.client.get(f"/aura/console/{path}")).status_code == 404
        assert (await aura.client.post("/aura/console/token", json={"code": "x"})).status_code == 405


async def test_one_time_code_is_exchanged_once(settings: MakeSettings) -> None:
    exchanges: list[str] = []
    one_time_codes = OneTimeCodes(SystemClock(), lambda: "the token")
    one_time_codes.subscribe(lambda: exchanges.append("used"))
    async with running(settings(aura_console=True), one_time_codes=one_time_codes) as aura:
        code = one_time_codes.issue()

        async def exchange(body: object) -> tuple[int, dict[str, object]]:
            answer = await aura.client.post("/aura/console/token", json=body)
            assert answer.headers.get("Cache-Control") == "no-store" or answer.status_code != 200
            return answer.status_code, answer.json()

        assert (await exchange({"code": "another"}))[0] == 403
        status, body = await exchange({"code": code})
        assert (status, body["data"]) == (200, {"token": "the token"})
        status, body = await exchange({"code": code})
        assert (status, body["errorCode"]) == (403, "E2001")
        assert (await exchange({"code": 7}))[0] == 400
        assert (await exchange({}))[0] == 400
    assert exchanges == ["used"]


def test_one_time_code_expires() -> None:
    with frozen_clock() as clock:
        one_time_codes = OneTimeCodes(clock, lambda: "the token", lifetime_seconds=60)
        late, soon = one_time_codes.issue(), one_time_codes.issue()
        assert late != soon
        clock.advance(59)
        assert one_time_codes.exchange(soon) == "the token"
        clock.advance(1)
        assert one_time_codes.exchange(late) is None


def test_list_of_files_is_complete() -> None:
    on_disk = {path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*") if path.is_file()}
    listed = {path for path in on_disk if not re.search(r"(README|LICENSE)[^/]*$", path)}
    assert listed == set(files.NAMES)


def test_every_reference_is_to_a_file_that_is_served() -> None:
    page = (STATIC / files.PAGE).read_text(encoding="utf-8")
    referred = set(re.findall(r'(?:src|href)="console/([^"]+)"', page))
    for path in STATIC.glob("*.js"):
        referred |= set(re.findall(r'from "\./([^"]+)"', path.read_text(encoding="utf-8")))
    assert referred | {files.PAGE} == set(files.NAMES)


def test_vendored_libraries_name_version_and_licence() -> None:
    readme = (STATIC / "vendor" / "README.md").read_text(encoding="utf-8")
    for path in (STATIC / "vendor").glob("*.js"):
        package, version = path.stem.rsplit("-", 1)
        assert f"| `{path.name}` | npm `{package}` {version}" in readme
        assert version in path.read_text(encoding="utf-8")[:400]
        assert list((STATIC / "vendor").glob(f"LICENSE.{package}*"))


@pytest.mark.parametrize("path", OWN, ids=name)
def test_only_one_module_creates_elements_from_text(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    sinks = (
        r"(inner|outer)HTML|insertAdjacentHTML|document\.write|DOMParser|ContextualFragment|srcdoc|eval\(|Function\("
    )
    assert not re.search(sinks, source)
    assert ("DOMPurify" in source) == (path.name == "markdown.js")
    assert not re.search(r"localStorage|sessionStorage|indexedDB|document\.cookie", source), (
        "the token is kept in memory only"
    )


@pytest.mark.parametrize("path", OWN, ids=name)
def test_page_requests_no_third_party(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[\w.]+", source)) <= {"http://www.w3.org"}
    if path.suffix == ".html":
        assert not re.search(r"\sstyle=|\son\w+=|<script(?![^>]*src=)|<style", source)
    assert len(source.splitlines()) <= 300


def test_every_text_has_an_english_and_a_korean_translation() -> None:
    source = (STATIC / "translations.js").read_text(encoding="utf-8")
    texts = dict(re.findall(r'^  "([\w.]+)": (\[.*\]),$', source, flags=re.MULTILINE))
    assert len(texts) > 100
    for key, both in texts.items():
        english, korean = re.fullmatch(r'\["((?:[^"\\]|\\.)+)", "((?:[^"\\]|\\.)+)"\]', both).groups()  # type: ignore[union-attr]
        assert sorted(re.findall(r"\{\w+\}", english)) == sorted(re.findall(r"\{\w+\}", korean)), key
    used: set[str] = set()
    for path in OWN:
        text = path.read_text(encoding="utf-8")
        used |= set(re.findall(r'\bt\("([\w.]+)"', text)) | set(re.findall(r'data-t(?:-label|-hint)?="([\w.]+)"', text))
    assert used <= set(texts)
