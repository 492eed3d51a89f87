"""nginx and HAProxy as processes with the configurations of `fixtures/gateway/`; only the ports are changed."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx2

from tests.harness.process import free_port
from tests.harness.service import FIXTURES, Client

_AURA = "127.0.0.1:9000"
_NGINX_MAIN = """
daemon off; master_process off; pid nginx.pid; error_log stderr warn;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
  {server}
}}
"""
# The default of nginx without settings for streams: HTTP/1.0 to the service, and buffering.
_NGINX_PLAIN = "server {{ listen 127.0.0.1:{port}; location /api/aura/ {{ proxy_pass http://{aura}/aura/; }} }}"

_PORT_TAKEN = "ddress already in use"
KINDS = ("nginx", "plain nginx", "haproxy")


def find_program(kind: str) -> str | None:
    """The path of the proxy's executable; None where it is not installed."""
    return shutil.which(kind.removeprefix("plain "), path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")


class ProxyClient(Client):
    """A client that calls the service through a proxy, under `/api`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = httpx2.AsyncClient(base_url=f"{url}/api", timeout=httpx2.Timeout(30, pool=None))


@asynccontextmanager
async def run_proxy(kind: str, url: str, folder: Path) -> AsyncIterator[ProxyClient]:
    """Run the proxy in front of the service at `url` until the context exits."""
    log = folder / "proxy.log"
    while True:
        port = free_port()
        process = _start(kind, urlsplit(url).netloc, port, folder, log)
        browser = ProxyClient(f"http://127.0.0.1:{port}")
        try:
            async with browser.client:
                while not await _is_up(browser):
                    if process.poll() is not None:
                        break
                    await asyncio.sleep(0.01)
                text = log.read_text(errors="replace")
                if process.poll() is not None and _PORT_TAKEN in text:  # by another test, since it was free
                    continue
                assert process.poll() is None, text
                yield browser
                return
        finally:
            process.kill()
            await asyncio.to_thread(process.wait)


def _start(kind: str, aura: str, port: int, folder: Path, log: Path) -> subprocess.Popen[bytes]:
    path, config = find_program(kind), folder / "proxy.conf"
    assert path is not None
    if kind == "haproxy":
        text = _replaced("haproxy.cfg", {"bind :8080": f"bind 127.0.0.1:{port}", _AURA: aura})
        command = [path, "-db", "-f", str(config)]
    else:
        recipe = _replaced("nginx.conf", {"listen 8080": f"listen 127.0.0.1:{port}", _AURA: aura})
        plain = _NGINX_PLAIN.format(port=port, aura=aura)
        text = _NGINX_MAIN.format(server=plain if kind == "plain nginx" else recipe)
        command = [path, "-p", str(folder), "-c", str(config), "-e", "stderr"]
    config.write_text(text, encoding="utf-8")
    with log.open("wb") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, cwd=folder)


def _replaced(name: str, changes: dict[str, str]) -> str:
    recipe = (FIXTURES / "gateway" / name).read_text(encoding="utf-8")
    for old, new in changes.items():
        assert recipe.count(old) == 1, f"{old} must occur exactly once in {name}"
        recipe = recipe.replace(old, new)
    return recipe


async def _is_up(browser: ProxyClient) -> bool:
    """Whether the proxy forwards requests; HAProxy answers 503 until its first health check has succeeded."""
    try:
        return bool((await browser.client.get("/aura/health")).status_code == 200)
    except httpx2.HTTPError:
        return False
