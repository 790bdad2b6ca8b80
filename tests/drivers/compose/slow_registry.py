"""Registries on loopback that make an engine wait."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import threading
from http import HTTPStatus

DEADLINE = 60.0  # s
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_LAYER_SIZE, _LAYER_SENT = 8 << 20, 1 << 20  # bytes of the layer, and bytes sent


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


_CONFIG = json.dumps(
    {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [_digest(b"")]}}
).encode()


def _manifest(layer: str) -> bytes:
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json",
                "size": len(_CONFIG),
                "digest": _digest(_CONFIG),
            },
            "layers": [
                {
                    "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                    "size": _LAYER_SIZE,
                    "digest": layer,
                }
            ],
        }
    ).encode()


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, SlowRegistry)
        if server.wants_password and not self._authorized(server):
            return
        if "/manifests/" in self.path and not server.wants_password:
            self._begin(len(server.manifest), _MANIFEST, _digest(server.manifest))
            if self.command == "GET":
                self.wfile.write(server.manifest)
        elif self.path.endswith(_digest(_CONFIG)):
            self._begin(len(_CONFIG), "application/octet-stream", _digest(_CONFIG))
            self.wfile.write(_CONFIG)
        elif "/blobs/" in self.path:
            self._begin(_LAYER_SIZE, "application/octet-stream", "")
            self.wfile.write(bytes(_LAYER_SENT))
            server.keep_waiting()
        elif self.path == "/v2/" and not server.wants_password:
            self._begin(0, "application/json", "")
        else:
            server.keep_waiting()

    def _authorized(self, server: SlowRegistry) -> bool:
        credentials = self.headers.get("Authorization")
        if credentials is None:
            self.send_response(HTTPStatus.UNAUTHORIZED)
            self.send_header("WWW-Authenticate", 'Basic realm="lab"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return False
        server.credentials = credentials
        return True

    def _begin(self, size: int, content_type: str, digest: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(size))
        if digest:
            self.send_header("Docker-Content-Digest", digest)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base class's name
        """Log nothing."""


class SlowRegistry(http.server.ThreadingHTTPServer):
    """A registry with every image, which sends an eighth of each image's only layer.

    With `wants_password`, the registry accepts the password and then sends nothing more. `asked` is set when
    the engine begins to wait.
    """

    daemon_threads = True

    def __init__(self, *, wants_password: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.wants_password = wants_password
        # A unique layer, because an engine never downloads one layer from two registries at once.
        self.manifest = _manifest(_digest(os.urandom(16)))
        self.credentials = ""
        self.asked = threading.Event()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    @property
    def image(self) -> str:
        return f"{self.address}/lab/agent:1"

    def keep_waiting(self) -> None:
        self.asked.set()
        self._done.wait(DEADLINE)

    def close(self) -> None:
        self._done.set()
        self.shutdown()
        self.server_close()
        self._thread.join()
