"""Tests of connections to the engine: search, error messages and abort."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import docker
import pytest
import requests
from hostmanager_server.drivers.compose.engine.connection import Connection, connect, explain, new_connection

from tests.docker_engine import DEADLINE


def explained(call: Callable[[], object]) -> str:
    with pytest.raises((docker.errors.DockerException, requests.RequestException, OSError)) as caught:
        call()
    return explain(caught.value)


@pytest.fixture(autouse=True)
def without_docker_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remove all docker settings of the user."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker-config"))


@pytest.fixture(params=["unix", "tcp"])
def silent_engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Yield the address of an engine that accepts connections, and never answers."""
    with socket.socket(socket.AF_UNIX if request.param == "unix" else socket.AF_INET) as listener:
        listener.bind(str(tmp_path / "silent_engine.sock") if request.param == "unix" else ("127.0.0.1", 0))
        listener.listen()
        name = listener.getsockname()
        yield f"unix://{name}" if request.param == "unix" else f"tcp://{name[0]}:{name[1]}"


@pytest.fixture
def failing_engine() -> Iterator[str]:
    """Yield the address of an engine that answers with internal errors."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"message": "the disk is full"}).encode()
            self.send_response(500)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"tcp://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def write_context(directory: Path, name: str, host: str) -> None:
    """Write a docker context, as `docker context create` does."""
    meta = directory / "contexts/meta" / hashlib.sha256(name.encode()).hexdigest() / "meta.json"
    meta.parent.mkdir(parents=True)
    endpoints = {"docker": {"Host": host, "SkipTLSVerify": False}}
    meta.write_text(json.dumps({"Name": name, "Metadata": {}, "Endpoints": endpoints}))


def set_current_context(directory: Path, name: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps({"currentContext": name}))


# --- the choice of the engine


def test_docker_host_names_the_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/a.sock")
    assert f"{tmp_path}/a.sock" in explained(connect)


def test_the_current_context_names_the_engine(tmp_path: Path) -> None:
    write_context(tmp_path / "docker-config", "lab", f"unix://{tmp_path}/lab.sock")
    set_current_context(tmp_path / "docker-config", "lab")
    assert f"{tmp_path}/lab.sock" in explained(connect)


def test_a_context_in_the_environment_comes_before_the_current_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("lab", "other"):
        write_context(tmp_path / "docker-config", name, f"unix://{tmp_path}/{name}.sock")
    set_current_context(tmp_path / "docker-config", "lab")
    monkeypatch.setenv("DOCKER_CONTEXT", "other")
    assert f"{tmp_path}/other.sock" in explained(connect)


def test_docker_host_comes_before_any_context(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_context(tmp_path / "docker-config", "lab", f"unix://{tmp_path}/lab.sock")
    set_current_context(tmp_path / "docker-config", "lab")
    monkeypatch.setenv("DOCKER_CONTEXT", "lab")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/a.sock")
    assert f"{tmp_path}/a.sock" in explained(connect)


def test_a_missing_context_does_not_fall_back_to_another_engine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_current_context(tmp_path / "docker-config", "default")
    monkeypatch.setenv("DOCKER_CONTEXT", "lab")
    text = explained(new_connection)
    assert "'lab' not found" in text
    assert "docker context ls" in text


def test_the_default_is_the_local_socket() -> None:
    connection = new_connection()
    assert connection.base_url == "http+docker://localhost"
    connection.close()


# --- error messages


def test_the_error_for_a_missing_socket(tmp_path: Path) -> None:
    text = explained(lambda: Connection(f"unix://{tmp_path}/docker.sock").negotiate(1))
    assert text.startswith(f"cannot find a Docker Engine at {tmp_path}/docker.sock: the socket does not")
    assert "systemctl start docker" in text


def test_the_error_for_a_socket_without_listener(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unused:
        unused.bind(str(tmp_path / "docker.sock"))
    text = explained(lambda: Connection(f"unix://{tmp_path}/docker.sock").negotiate(1))
    assert text.startswith(f"cannot reach the Docker Engine at {tmp_path}/docker.sock: the engine does")


def test_the_error_for_a_port_without_listener() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        text = explained(lambda: Connection(f"tcp://127.0.0.1:{port}").negotiate(1))
    assert text.startswith(f"cannot reach the Docker Engine at 127.0.0.1:{port}: the engine does not run")


def test_the_error_for_a_lack_of_permission() -> None:
    # The tests may run as root, which is never denied, so build the exception of urllib3 and requests.
    denied = PermissionError(13, "Permission denied", "/var/run/docker.sock")
    wrapped = requests.ConnectionError(("Connection aborted.", denied))
    wrapped.__context__ = denied
    text = explain(wrapped)
    assert text.startswith("cannot use the Docker Engine at /var/run/docker.sock: permission denied")
    assert "usermod -aG docker" in text
    assert "root" in text


def test_the_error_for_an_engine_that_does_not_answer(silent_engine: str) -> None:
    text = explained(lambda: Connection(silent_engine).negotiate(0.05))
    assert "does not answer" in text
    assert "systemctl restart docker" in text


def test_the_error_for_an_engine_that_sends_no_events(silent_engine: str) -> None:
    assert "does not answer" in explained(lambda: Connection(silent_engine).stream_events({}, 0.05))


def test_the_engines_own_error_is_quoted(failing_engine: str) -> None:
    text = explained(lambda: Connection(failing_engine).negotiate(DEADLINE))
    assert text == "the Docker Engine refused with 500: the disk is full"


def test_the_error_for_tls_with_a_plain_engine(failing_engine: str) -> None:
    text = explained(lambda: Connection(failing_engine, tls=docker.tls.TLSConfig()).negotiate(DEADLINE))
    assert text.startswith("cannot use TLS with the Docker Engine at 127.0.0.1:")
    assert "DOCKER_TLS_VERIFY" in text


def test_the_error_for_missing_certificates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
    assert "check DOCKER_CERT_PATH" in explained(new_connection)


def test_the_error_for_an_unknown_host() -> None:
    # Without a real look-up: a machine without a name server would wait.
    unknown = requests.ConnectionError(socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
    unknown.request = requests.Request("GET", "http://observatory:2375/_ping").prepare()
    text = explain(unknown)
    assert text.startswith("cannot resolve the host of the Docker Engine at observatory:2375: Name or")


def test_the_error_for_ssh_names_the_alternative() -> None:
    assert "ssh -N -L" in explained(lambda: Connection("ssh://somewhere"))


def test_the_error_for_a_broken_login_names_the_docker_config_file(tmp_path: Path) -> None:
    set_current_context(tmp_path / "docker-config", "default")
    broken = {"auths": {"lab.example": {"auth": "!"}}}
    (tmp_path / "docker-config" / "config.json").write_text(json.dumps(broken))
    text = explained(new_connection)
    assert "cannot read the docker config file" in text
    assert "docker login" in text


def test_the_error_for_any_other_exception_quotes_the_exception() -> None:
    assert explain(ValueError("odd")) == "cannot use the Docker Engine: odd"
    assert explain(ValueError()) == "cannot use the Docker Engine: ValueError"


# --- abort


def test_abort_ends_a_waiting_call(silent_engine: str) -> None:
    connection = Connection(silent_engine)
    failed = threading.Event()

    def wait() -> None:
        with pytest.raises(requests.ConnectionError):
            connection.negotiate(10 * DEADLINE)
        failed.set()

    thread = threading.Thread(target=wait)
    thread.start()
    while not failed.wait(0.01):
        connection.abort()  # at any point of the call
    thread.join()


def test_a_call_after_abort_fails_at_once(silent_engine: str) -> None:
    connection = Connection(silent_engine)
    connection.abort()
    with pytest.raises(requests.ConnectionError):
        connection.negotiate(10 * DEADLINE)
