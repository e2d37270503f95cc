"""A stand-in for the Hugging Face hub on 127.0.0.1, for the real client.

It has the hub's answers that a download needs: a repository's files with sizes and hashes, files
with ETags, large files by a redirect to another host, ranges, and the errors with their codes.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

LARGE = 4096  # bytes from which a file is stored as a large one
TOKEN = "hf_stand_in"


class Asked(NamedTuple):
    """One request."""

    method: str
    path: str
    range: str | None
    token: str | None


@dataclass(kw_only=True)
class Hub:
    """The repositories, how the hub misbehaves, and what it was asked."""

    # The files of each revision of each repository. A revision is its own commit's name.
    repos: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    # Bytes after which the next answers with a large file break off, one number for each.
    breaks: list[int] = field(default_factory=list)
    damaged: set[str] = field(default_factory=set)  # files that are sent with a wrong byte
    ignores_ranges: bool = False
    asked: list[Asked] = field(default_factory=list)
    endpoint: str = ""

    def add(
        self, repo: str, files: Mapping[str, bytes], revision: str = "main"
    ) -> dict[str, dict[str, bytes]]:
        revisions = self.repos.setdefault(repo, {})
        revisions[revision] = dict(files)
        return revisions

    def ranges(self) -> list[str | None]:
        """The ranges that large files were asked for."""
        return [each.range for each in self.asked if each.path.startswith("/cdn/")]


def commit_of(files: Mapping[str, bytes]) -> str:
    """The name of a commit with these files."""
    hashed = hashlib.sha1()
    for name, data in sorted(files.items()):
        hashed.update(name.encode() + b"\0" + data)
    return hashed.hexdigest()


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextmanager
def run_hub() -> Iterator[Hub]:
    """Yields a hub without repositories."""
    hub = Hub()
    server = _Server(("127.0.0.1", 0), _Handler)
    server.hub = hub
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    """Answers for a hub, which its handlers find here."""

    hub: Hub


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    @property
    def _hub(self) -> Hub:
        return self.server.hub

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        token = self.headers.get("Authorization")
        self._hub.asked.append(Asked(self.command, self.path, self.headers.get("Range"), token))
        path = self.path.partition("?")[0]
        if match := re.fullmatch(r"/api/models/(.+?)(/revision/(.+))?", path):
            self._info(match[1], match[3] or "main")
        elif match := re.fullmatch(r"/cdn/(.+?)/resolve/([^/]+)/(.+)", path):
            self._large(
                match[3], self._hub.repos[match[1]][_revision(self._hub, match[1], match[2])]
            )
        elif match := re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path):
            self._file(match[1], match[2], match[3], token)
        else:
            self._refuse(404, "EntryNotFound")

    def _info(self, repo: str, revision: str) -> None:
        found = self._found(repo, revision)
        if found is None:
            return
        siblings = [_sibling(name, data) for name, data in found.items()]
        gated = "manual" if repo in self._hub.gated else False
        info = {"id": repo, "sha": commit_of(found), "siblings": siblings, "gated": gated}
        self._send(200, json.dumps(info).encode())

    def _file(self, repo: str, revision: str, name: str, token: str | None) -> None:
        found = self._found(repo, revision)
        if found is None:
            return
        if repo in self._hub.gated and token != f"Bearer {TOKEN}":
            return self._refuse(401 if token is None else 403, "GatedRepo")
        if name not in found:
            return self._refuse(404, "EntryNotFound")
        data = found[name]
        headers = {"X-Repo-Commit": commit_of(found)}
        if len(data) < LARGE:
            return self._send(
                200, _sent(self._hub, name, data), ETag=f'"{git_sha1(data)}"', **headers
            )
        port = self.server.server_address[1]
        self._send(
            302,
            b"",
            Location=f"http://localhost:{port}/cdn/{repo}/resolve/{revision}/{name}",
            **headers | {"X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{sha256(data)}"'},
        )

    def _found(self, repo: str, revision: str) -> dict[str, bytes] | None:
        if repo not in self._hub.repos:
            self._refuse(401, "RepoNotFound")
            return None
        name = _revision(self._hub, repo, revision)
        if name not in self._hub.repos[repo]:
            self._refuse(404, "RevisionNotFound")
            return None
        return self._hub.repos[repo][name]

    def _large(self, name: str, files: Mapping[str, bytes]) -> None:
        data = _sent(self._hub, name, files[name])
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(asked[1]) if asked and not self._hub.ignores_ranges else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        rest = data[start:]
        if self._hub.breaks:
            rest = rest[: self._hub.breaks.pop(0)]
            self.close_connection = True
        with suppress(ConnectionError):  # the client has gone
            self.wfile.write(rest)

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b"", **{"X-Error-Code": code, "X-Error-Message": code})

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass


def _revision(hub: Hub, repo: str, revision: str) -> str:
    """The name of the revision, which may be given as a commit."""
    for name, files in hub.repos[repo].items():
        if commit_of(files) == revision:
            return name
    return revision


def _sibling(name: str, data: bytes) -> dict[str, Any]:
    sibling: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": git_sha1(data)}
    if len(data) >= LARGE:
        sibling["lfs"] = {"size": len(data), "sha256": sha256(data), "pointerSize": 134}
    return sibling


def _sent(hub: Hub, name: str, data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1]) if name in hub.damaged else data
