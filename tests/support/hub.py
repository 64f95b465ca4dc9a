"""A hub of models on this machine: the few addresses that huggingface_hub's client asks, served from folders."""

import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"
#: Smaller files are not kept in Git LFS, and the hub does not tell their SHA-256.
_LFS = 10_000


class Hub:
    """What is served: `repositories` by their id, `licence`, and what goes wrong."""

    def __init__(self):
        self.repositories = {}
        self.licence = "apache-2.0"
        self.gated = set()
        #: Names of files that arrive with another content.
        self.damaged = set()
        self.asked = []
        self.endpoint = ""

    def use(self, monkeypatch):
        """Let the client in this process ask this hub; it took the address from the environment when it began."""
        monkeypatch.setattr(constants, "ENDPOINT", self.endpoint)
        template = self.endpoint + constants.HUGGINGFACE_CO_URL_TEMPLATE[len("https://huggingface.co") :]
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)

    def environment(self):
        """For a command that is to use this hub."""
        return {"HF_ENDPOINT": self.endpoint, "HF_HUB_OFFLINE": None, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": ""}


def _files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _facts(folder, path, digest):
    data = path.read_bytes()
    facts = {"size": len(data)}
    if len(data) >= _LFS:
        facts["lfs"] = {digest: hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return path.relative_to(folder).as_posix(), facts


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def log_message(self, *arguments):
        pass

    def _answer(self, body):
        hub, path = self.server.hub, unquote(urlsplit(self.path).path)
        hub.asked.append(f"{self.command} {path}")
        for name, folder in hub.repositories.items():
            if path.startswith(f"/api/models/{name}/revision/"):
                return self._json(self._info(hub, name, folder), body)
            if path.startswith(f"/api/models/{name}/tree/"):
                return self._json(self._tree(folder), body)
            _, found, file = path.partition(f"/{name}/resolve/")
            revision, _, file = file.partition("/")
            if found and revision in (COMMIT, "main") and (folder / file).is_file():
                if name in hub.gated:
                    return self._send(403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "ask first"}, body)
                return self._file(hub, folder / file, body)
        return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)

    def _info(self, hub, name, folder):
        listed = [_facts(folder, path, "sha256") for path in _files(folder)]
        siblings = [{"rfilename": one, "blobId": "b" * 40, **facts} for one, facts in listed]
        return {
            "_id": "1", "id": name, "sha": COMMIT, "siblings": siblings, "cardData": {"license": hub.licence},
            "private": False, "gated": "manual" if name in hub.gated else False, "tags": [], "downloads": 0,
        }  # fmt: skip

    def _tree(self, folder):
        listed = [_facts(folder, path, "oid") for path in _files(folder)]
        return [{"type": "file", "path": one, "oid": "b" * 40, **facts} for one, facts in listed]

    def _file(self, hub, path, body):
        data = path.read_bytes()
        etag = hashlib.sha256(data).hexdigest()
        if path.name in hub.damaged:
            data = data[:-1] + bytes([data[-1] ^ 1])
        self._send(200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "X-Linked-Size": str(len(data))}, body)

    def _json(self, content, body):
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"}, body)

    def _send(self, status, data, headers, body):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


@contextlib.contextmanager
def serving():
    """A hub that answers as long as the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.hub = Hub()
    server.hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
