"""A server that speaks the part of the hub's HTTP API which pushing, uploading and fetching need."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

TOKEN = "hf_not_a_real_token"
# What `/api/` and what a file's address begin with, by the type of repository.
API = re.compile(r"/api/(?:models|datasets)/(?P<repo>[\w.-]+/[\w.-]+)(?P<rest>/.*)?")
FILE = re.compile(r"/(?:datasets/)?(?P<repo>[\w.-]+/[\w.-]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")


class Hub(ThreadingHTTPServer):
    """Keeps the files of every commit, and of every repository as the last one left it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.commits: list[dict[str, bytes]] = []
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.may_write = True
        self.strangers: list[str] = []  # what was posted without the token

    def environment(self, cache: Path, token: str = TOKEN) -> dict[str, str]:
        """What makes another process take this server for the hub."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": token,
            "HF_HOME": str(cache),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
        }

    def sha(self, repo: str) -> str:
        """Stands for a commit: of what the repository holds."""
        content = repr(sorted(self.files[repo].items()))
        return hashlib.sha1(content.encode()).hexdigest()


class Answers(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if (match := API.fullmatch(path)) and match["repo"] in self.server.files:
            self._describe(match["repo"], match["rest"] or "")
        elif (match := FILE.fullmatch(path)) and match["path"] in self.server.files.get(match["repo"], {}):
            content = self.server.files[match["repo"]][match["path"]]
            etag = hashlib.sha1(content).hexdigest()
            self._send(200, content, {"X-Repo-Commit": self.server.sha(match["repo"]), "ETag": f'"{etag}"'})
        else:
            self._answer(404, {"error": "not here"}, {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def _describe(self, repo: str, rest: str) -> None:
        if rest.startswith("/tree/"):
            files = self.server.files[repo].items()
            rows = [{"type": "file", "path": p, "size": len(c), "oid": hashlib.sha1(c).hexdigest()} for p, c in files]
            self._answer(200, rows)
        elif rest in ("", "/revision/main"):
            private = self.server.private.get(repo, False)
            self._answer(200, {"id": repo, "sha": self.server.sha(repo), "private": private, "siblings": []})
        else:
            self._answer(404, {"error": rest}, {"X-Error-Code": "RevisionNotFound"})

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.server.strangers.append(self.path)
        match = API.fullmatch(urlsplit(self.path).path)
        if self.path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif not self.server.may_write:
            self._answer(403, {"error": "this token may only read"})
        elif self.path == "/api/repos/create":
            self._create(json.loads(sent))
        elif match and match["rest"].startswith("/preupload/"):
            files = [file["path"] for file in json.loads(sent)["files"]]
            answer = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in files]
            self._answer(200, {"files": answer})
        elif match and match["rest"].startswith("/commit/"):
            self._commit(match["repo"], [json.loads(line) for line in sent.splitlines()])
        else:
            self._answer(404, {"error": self.path})

    def _create(self, wanted: dict[str, str]) -> None:
        repo = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        kind = "datasets/" if wanted.get("type") == "dataset" else ""
        there = repo in self.server.files
        if not there:
            self.server.files[repo] = {}
            self.server.private[repo] = bool(wanted.get("private")) or wanted.get("visibility") == "private"
        self._answer(409 if there else 200, {"url": f"{self.server.url}/{kind}{repo}"})

    def _commit(self, repo: str, rows: list[dict[str, dict[str, str]]]) -> None:
        values = [row["value"] for row in rows if row["key"] == "file"]
        files = {value["path"]: base64.b64decode(value["content"]) for value in values}
        self.server.commits.append(files)
        kept = self.server.files.setdefault(repo, {})
        for row in rows:
            if row["key"] == "deletedFile":
                kept.pop(row["value"]["path"])
        kept.update(files)
        self._answer(200, {"commitUrl": f"{self.server.url}/{repo}/commit/0", "commitOid": "0" * 40})

    def _answer(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(body).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A server for as long as the block lasts."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
