"""Measure tools/serve.py beside nginx on the same files: an archive in bytes a second, a page in requests a second.

    section = measure(ServeSettings())

Both serve one folder on loopback. The client is wrk; where that is not installed, threads of this process, and a note says so.
"""

import contextlib
import functools
import http.client
import json
import os
import pathlib
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tools.benchmarks import measuring
from tools.benchmarks.measuring import BenchmarkError, Contestant, Settings
from tools.benchmarks.rows import OURS
from tools.catalog.layout import HOME_PAGE, archive_path, page_path, record_path
from tools.common.files import ROOT
from tools.common.ports import free_port

HANDLE = "hubpress/benchmark/1"
PAGE_BYTES = 20_000
CONNECTIONS = 8


@dataclass(frozen=True, kw_only=True)
class ServeSettings(Settings):
    """Settings with the seconds of a turn and the megabytes of the archive."""

    turns: int = 5
    seconds: float = 2.0
    megabytes: int = 64


def measure(settings: ServeSettings) -> dict[str, Any]:
    """Measure an archive by its own address and by its handle, and a page; return the report's section."""
    archive = f"/{archive_path(HANDLE)}"
    with tempfile.TemporaryDirectory(prefix="hubpress-bench-") as scratch:
        folder = make_hub(pathlib.Path(scratch, "hub"), settings.megabytes * 1_000_000)
        absent: dict[str, str] = {}
        servers: dict[str, str] = {}
        with contextlib.ExitStack() as stack:
            servers[OURS] = stack.enter_context(_ours(folder))
            try:
                servers["nginx"] = stack.enter_context(_nginx(folder, pathlib.Path(scratch)))
            except BenchmarkError as error:
                absent["nginx"] = str(error)
            request = _request_with_wrk if shutil.which("wrk") else _request
            comparisons = []
            for case, unit, key, paths in (
                ("archive", "MB/s", "megabytes", (archive, archive)),
                (
                    "archive as tensorflow_hub asks for it; nginx by its own address",
                    "MB/s",
                    "megabytes",
                    (f"/{HANDLE}?tf-hub-format=compressed", archive),
                ),
                ("page of 20 kB", "requests/s", "requests", (f"/{HANDLE}/", f"/{HANDLE}/")),
            ):

                def report(turn: int, name: str, case: str = case) -> None:
                    settings.report(f"{case}: turn {turn + 1}, {name}")

                turns = measuring.take_turns(
                    {
                        name: functools.partial(request, url + paths[name != OURS], settings.seconds)
                        for name, url in servers.items()
                    },
                    turns=settings.turns,
                    report=report,
                )
                found = [
                    Contestant(name, tuple(each[key] for each in done), name == OURS) for name, done in turns.items()
                ]
                found += [Contestant(name, absent=why) for name, why in absent.items()]
                comparisons.append(measuring.compare("loopback", case, unit, "more", found))
    notes = [
        f"{CONNECTIONS} connections at a time, asked by "
        f"{'wrk' if request is _request_with_wrk else 'threads of Python, which is what limits them'}; "
        "client and server share the cores, and nginx has two workers, ours one process."
    ]
    return measuring.section(
        comparisons,
        threads=settings.threads,
        versions=measuring.versions(("uvicorn", "starlette")) | _nginx_version(),
        settings={"turns": settings.turns, "seconds": settings.seconds, "megabytes": settings.megabytes},
        notes=notes,
    )


def make_hub(folder: pathlib.Path, size: int) -> pathlib.Path:
    """Make a hub of one module: an archive of `size` random bytes, its record, a page and an index."""
    (folder / HANDLE).mkdir(parents=True)
    (folder / archive_path(HANDLE)).write_bytes(os.urandom(size))
    record = {"schema": 1, "kind": "Module", "handle": HANDLE, "archive": {"bytes": size}}
    (folder / record_path(HANDLE)).write_text(json.dumps(record))
    words = ("vision backbone module image feature vector classifier " * (PAGE_BYTES // 55 + 1))[: PAGE_BYTES - 40]
    (folder / page_path(HANDLE)).write_text(f"<!doctype html><title>Page</title><p>{words}")
    (folder / HOME_PAGE).write_text("<!doctype html><title>Hub</title>")
    return folder


@contextlib.contextmanager
def _ours(folder: pathlib.Path) -> Iterator[str]:
    """Serve a folder by tools/serve.py; yield its address."""
    command = [sys.executable, ROOT / "tools/serve.py", "--hub", folder, "--port", "0"]
    process = subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://\S+", line)
        if not found:
            said = line.strip() or "it said nothing"
            raise BenchmarkError(f"tools/serve.py does not start: {said}", "run it by hand to see why")
        yield found[0].rstrip("/")
    finally:
        process.terminate()
        process.wait()
        if process.stdout:
            process.stdout.close()


@contextlib.contextmanager
def _nginx(folder: pathlib.Path, scratch: pathlib.Path) -> Iterator[str]:
    """Serve a folder by nginx, whose files lie in `scratch`; yield its address."""
    if not shutil.which("nginx"):
        raise BenchmarkError("it is not on the PATH", "install nginx")
    port, settings = free_port(0), scratch / "nginx.conf"
    settings.write_text(
        f"""daemon off; worker_processes 2; user {pwd.getpwuid(os.geteuid()).pw_name};
pid {scratch}/nginx.pid; error_log {scratch}/nginx.log;
events {{ worker_connections 256; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;
  client_body_temp_path {scratch}/body; proxy_temp_path {scratch}/proxy; fastcgi_temp_path {scratch}/fastcgi;
  uwsgi_temp_path {scratch}/uwsgi; scgi_temp_path {scratch}/scgi;
  types {{ text/html html; application/gzip gz; application/json json; }}
  server {{ listen 127.0.0.1:{port}; root {folder}; }}
}}
"""
    )
    process = subprocess.Popen(
        ["nginx", "-p", scratch, "-c", settings], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(100):
            time.sleep(0.05)
            with contextlib.suppress(OSError):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                connection.request("GET", "/")
                connection.getresponse().read()
                connection.close()
                break
            if process.poll() is not None:
                raise BenchmarkError(
                    f"it does not start: {(scratch / 'nginx.log').read_text().strip()}", "correct what its log says"
                )
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _nginx_version() -> dict[str, str]:
    if not shutil.which("nginx"):
        return {}
    said = subprocess.run(["nginx", "-v"], capture_output=True, text=True).stderr
    return {"nginx": said.rpartition("/")[2].split()[0]} if "/" in said else {}


def _request_with_wrk(url: str, seconds: float) -> dict[str, float]:
    """Return requests and megabytes a second, by wrk."""
    command = ["wrk", "-t", "1", "-c", str(CONNECTIONS), "-d", f"{max(1, round(seconds))}s", "--timeout", "30s", url]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    requests = re.search(r"Requests/sec:\s+([\d.]+)", said)
    moved = re.search(r"Transfer/sec:\s+([\d.]+)(B|KB|MB|GB)", said)
    wrong = re.search(r"Non-2xx or 3xx responses: (\d+)|Socket errors: connect ([1-9]\d*)", said)
    if not requests or not moved or wrong:
        raise BenchmarkError(
            f"wrk got no good answers from {url}: {' '.join(said.split())}", "run it by hand to see why"
        )
    factor = {"B": 1e-6, "KB": 1024e-6, "MB": 1.048576, "GB": 1073.741824}[moved[2]]
    return {"requests": float(requests[1]), "megabytes": float(moved[1]) * factor}


def _request(url: str, seconds: float) -> dict[str, float]:
    """Return requests and megabytes a second, by threads that keep their connections."""
    parts = urllib.parse.urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    done: list[int] = []  # the bytes of each answer
    failures: list[int] = []  # status codes
    end = time.perf_counter() + seconds

    def work() -> None:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        try:
            while time.perf_counter() < end:
                connection.request("GET", target)
                answer = connection.getresponse()
                size = 0
                while chunk := answer.read(1 << 20):
                    size += len(chunk)
                if answer.status != 200:
                    failures.append(answer.status)
                    return
                done.append(size)
        finally:
            connection.close()

    start = time.perf_counter()
    threads = [threading.Thread(target=work) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures or not done:
        raise BenchmarkError(f"{url} was answered with {failures[:1] or 'nothing'}", "open it in a browser to see why")
    took = time.perf_counter() - start
    return {"requests": len(done) / took, "megabytes": sum(done) / took / 1e6}
