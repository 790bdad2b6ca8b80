"""How the engine is found, what an operator reads when it cannot be used, and cutting a connection off."""

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
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A user without any docker settings."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker-config"))


@pytest.fixture(params=["unix", "tcp"])
def mute(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of an engine that accepts connections, and never answers."""
    with socket.socket(socket.AF_UNIX if request.param == "unix" else socket.AF_INET) as listener:
        listener.bind(str(tmp_path / "mute.sock") if request.param == "unix" else ("127.0.0.1", 0))
        listener.listen()
        name = listener.getsockname()
        yield f"unix://{name}" if request.param == "unix" else f"tcp://{name[0]}:{name[1]}"


@pytest.fixture
def failing() -> Iterator[str]:
    """The address of an engine that answers everything with an error of its own."""

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


def context(directory: Path, name: str, host: str) -> None:
    """Make a docker context, as `docker context create` does."""
    meta = directory / "contexts/meta" / hashlib.sha256(name.encode()).hexdigest() / "meta.json"
    meta.parent.mkdir(parents=True)
    endpoints = {"docker": {"Host": host, "SkipTLSVerify": False}}
    meta.write_text(json.dumps({"Name": name, "Metadata": {}, "Endpoints": endpoints}))


def current_context(directory: Path, name: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps({"currentContext": name}))


# --- which engine


def test_docker_host_names_the_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/a.sock")
    assert f"{tmp_path}/a.sock" in explained(connect)


def test_the_current_context_names_the_engine(tmp_path: Path) -> None:
    context(tmp_path / "docker-config", "lab", f"unix://{tmp_path}/lab.sock")
    current_context(tmp_path / "docker-config", "lab")
    assert f"{tmp_path}/lab.sock" in explained(connect)


def test_a_context_in_the_environment_comes_before_the_current_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("lab", "other"):
        context(tmp_path / "docker-config", name, f"unix://{tmp_path}/{name}.sock")
    current_context(tmp_path / "docker-config", "lab")
    monkeypatch.setenv("DOCKER_CONTEXT", "other")
    assert f"{tmp_path}/other.sock" in explained(connect)


def test_docker_host_comes_before_any_context(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    context(tmp_path / "docker-config", "lab", f"unix://{tmp_path}/lab.sock")
    current_context(tmp_path / "docker-config", "lab")
    monkeypatch.setenv("DOCKER_CONTEXT", "lab")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/a.sock")
    assert f"{tmp_path}/a.sock" in explained(connect)


def test_a_context_that_is_not_there_does_not_fall_back_on_another_engine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    current_context(tmp_path / "docker-config", "default")
    monkeypatch.setenv("DOCKER_CONTEXT", "lab")
    sentence = explained(new_connection)
    assert "'lab' not found" in sentence
    assert "docker context ls" in sentence


def test_without_settings_it_is_the_default_socket() -> None:
    connection = new_connection()
    assert connection.base_url == "http+docker://localhost"
    connection.close()


# --- what is wrong with it


def test_no_socket(tmp_path: Path) -> None:
    sentence = explained(lambda: Connection(f"unix://{tmp_path}/docker.sock").negotiate(1))
    assert sentence.startswith(f"cannot find a Docker Engine at {tmp_path}/docker.sock: the socket does not")
    assert "systemctl start docker" in sentence


def test_a_socket_that_nobody_listens_at(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(tmp_path / "docker.sock"))
    sentence = explained(lambda: Connection(f"unix://{tmp_path}/docker.sock").negotiate(1))
    assert sentence.startswith(f"cannot reach the Docker Engine at {tmp_path}/docker.sock: the engine does")


def test_a_port_that_nobody_listens_at() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        sentence = explained(lambda: Connection(f"tcp://127.0.0.1:{port}").negotiate(1))
    assert sentence.startswith(f"cannot reach the Docker Engine at 127.0.0.1:{port}: the engine does not run")


def test_no_permission() -> None:
    # Root, as which the tests may run, is never denied: so here is what urllib3 and requests make of it.
    denied = PermissionError(13, "Permission denied", "/var/run/docker.sock")
    wrapped = requests.ConnectionError(("Connection aborted.", denied))
    wrapped.__context__ = denied
    sentence = explain(wrapped)
    assert sentence.startswith("cannot use the Docker Engine at /var/run/docker.sock: permission denied")
    assert "usermod -aG docker" in sentence
    assert "root" in sentence


def test_an_engine_that_does_not_answer(mute: str) -> None:
    sentence = explained(lambda: Connection(mute).negotiate(0.05))
    assert "does not answer" in sentence
    assert "systemctl restart docker" in sentence


def test_an_engine_that_never_begins_with_its_events(mute: str) -> None:
    assert "does not answer" in explained(lambda: Connection(mute).stream_events({}, 0.05))


def test_an_error_of_the_engine(failing: str) -> None:
    sentence = explained(lambda: Connection(failing).negotiate(DEADLINE))
    assert sentence == "the Docker Engine refused with 500: the disk is full"


def test_tls_with_an_engine_that_has_none(failing: str) -> None:
    sentence = explained(lambda: Connection(failing, tls=docker.tls.TLSConfig()).negotiate(DEADLINE))
    assert sentence.startswith("cannot use TLS with the Docker Engine at 127.0.0.1:")
    assert "DOCKER_TLS_VERIFY" in sentence


def test_certificates_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
    assert "check DOCKER_CERT_PATH" in explained(new_connection)


def test_a_host_that_is_not_known() -> None:
    # Not asked of a name server: a machine without one would wait for it.
    unknown = requests.ConnectionError(socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
    unknown.request = requests.Request("GET", "http://observatory:2375/_ping").prepare()
    sentence = explain(unknown)
    assert sentence.startswith("cannot resolve the host of the Docker Engine at observatory:2375: Name or")


def test_ssh_says_what_to_do_instead() -> None:
    assert "ssh -N -L" in explained(lambda: Connection("ssh://somewhere"))


def test_a_login_that_is_none_is_a_fault_of_the_docker_config_file(tmp_path: Path) -> None:
    current_context(tmp_path / "docker-config", "default")
    broken = {"auths": {"lab.example": {"auth": "!"}}}
    (tmp_path / "docker-config" / "config.json").write_text(json.dumps(broken))
    said = explained(new_connection)
    assert "cannot read the docker config file" in said
    assert "docker login" in said


def test_whatever_else_goes_wrong_is_said() -> None:
    assert explain(ValueError("odd")) == "cannot use the Docker Engine: odd"
    assert explain(ValueError()) == "cannot use the Docker Engine: ValueError"


# --- cutting it off


def test_a_connection_that_is_cut_off_waits_no_longer(mute: str) -> None:
    connection = Connection(mute)
    failed = threading.Event()

    def wait() -> None:
        with pytest.raises(requests.ConnectionError):
            connection.negotiate(10 * DEADLINE)
        failed.set()

    thread = threading.Thread(target=wait)
    thread.start()
    while not failed.wait(0.01):
        connection.abort()  # at whatever point it is
    thread.join()


def test_a_connection_that_was_cut_off_stays_so(mute: str) -> None:
    connection = Connection(mute)
    connection.abort()
    with pytest.raises(requests.ConnectionError):
        connection.negotiate(10 * DEADLINE)
