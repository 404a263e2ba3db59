"""A model hub on this machine: what huggingface_hub asks of the real one, over real HTTP."""

import hashlib
import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

REVISION = "1f3c" * 10
# the hub keeps files of these beginnings elsewhere, behind a redirect
LARGE = (".pt", ".pth", ".safetensors")


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def git_sha1(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Request:
    """One request as it arrived."""

    method: str
    path: str
    range: str | None
    token: str | None


@dataclass
class FakeHub:
    """Repositories by name, and what is wrong with the hub.

    Attributes:
        repositories: files of each, by path.
        card: what the model cards say.
        moved: new names of repositories.
        refuses: status and error code of every answer.
        serves: what is sent in the place of a file's bytes, by path.
        cut_after: bytes of a file after which the connection is cut, once for each.
        stall_after: bytes of a file after which nothing more comes.
        requests: all that arrived.
    """

    repositories: dict = field(default_factory=dict)
    card: dict = field(default_factory=lambda: {"license": "cc-by-nc-sa-4.0"})
    moved: dict = field(default_factory=dict)
    refuses: tuple | None = None
    serves: dict = field(default_factory=dict)
    cut_after: list = field(default_factory=list)
    stall_after: int | None = None
    requests: list = field(default_factory=list)
    port: int = 0
    released: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def add(self, repository, paths):
        """Make up files of a repository: other bytes in each, more than one read of a buffer."""
        self.repositories[repository] = {path: made_up(repository, path) for path in paths}
        return self.repositories[repository]

    def fetched(self):
        """Paths and ranges of the requests for files, redirects left out."""
        return [(one.path, one.range) for one in self.requests if "/resolve/" in one.path]


def made_up(repository, path):
    """Bytes that are never the same for two files."""
    seed = f"{repository}/{path}\n".encode()
    return seed * (40_000 // len(seed) if path.endswith(LARGE) else 3)


class Answer(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"

    hub: FakeHub

    def log_message(self, format, *args):  # noqa: A002 - the base's name
        """Say nothing."""

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        token = self.headers.get("Authorization")
        self.hub.requests.append(Request("GET", path, self.headers.get("Range"), token))
        if self.hub.refuses:
            status, code = self.hub.refuses
            self.send(status, b"", {"X-Error-Code": code} if code else {})
        elif path.startswith("/api/models/"):
            self.send_info(path.removeprefix("/api/models/"))
        elif path.startswith("/cdn/"):
            self.send_file(path.removeprefix("/cdn/"))
        else:
            repository, _, rest = path.strip("/").partition("/resolve/")
            revision, _, name = rest.partition("/")
            if revision != REVISION or name not in self.hub.repositories.get(repository, {}):
                self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
            elif name.endswith(LARGE):
                # another origin: the token must not go there
                there = f"http://localhost:{self.hub.port}/cdn/{repository}/{name}"
                self.send(302, b"", {"Location": there})
            else:
                self.send_file(f"{repository}/{name}")

    def send_info(self, repository):
        if repository in self.hub.moved:
            there = f"/api/models/{self.hub.moved[repository]}?blobs=True"
            self.send(307, b"", {"Location": there})
            return
        if repository not in self.hub.repositories:
            self.send(404, b"", {"X-Error-Code": "RepoNotFound"})
            return
        info = {
            "_id": "0",
            "id": repository,
            "modelId": repository,
            "sha": REVISION,
            "private": False,
            "gated": False,
            "tags": ["license:mit"],
            "cardData": self.hub.card,
            "siblings": [
                stated(path, data) for path, data in self.hub.repositories[repository].items()
            ],
        }
        self.send(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

    def send_file(self, place):
        owner, name, path = place.split("/", 2)
        data = self.hub.repositories[f"{owner}/{name}"][path]
        data = self.hub.serves.get(path, data)
        start, status, headers = 0, 200, {"ETag": f'"{sha256(data)}"'}
        if asked := self.headers.get("Range"):
            start, status = int(asked.removeprefix("bytes=").rstrip("-")), 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self.send(status, data[start:], headers, start)

    def send(self, status, body, headers, start=0):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        is_file = "ETag" in headers
        if is_file and self.hub.stall_after is not None:
            self.wfile.write(body[: self.hub.stall_after])
            self.wfile.flush()
            self.hub.released.wait(30)
            self.close_connection = True
        elif is_file and self.hub.cut_after:
            self.wfile.write(body[: self.hub.cut_after.pop(0)])
            self.close_connection = True
        else:
            self.wfile.write(body)


def stated(path, data):
    """What the hub states of a file."""
    facts = {"rfilename": path, "size": len(data), "blobId": git_sha1(data)}
    if path.endswith(LARGE):
        facts["lfs"] = {"sha256": sha256(data), "size": len(data), "pointerSize": 135}
    return facts


@contextmanager
def running(hub) -> Generator[FakeHub]:
    """Serve a hub on a free port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answer", (Answer,), {"hub": hub}))
    server.daemon_threads = True
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
