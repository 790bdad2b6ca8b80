"""Paths that others may change, and foreign files in the place of the daemon's."""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hostmanager_client.address import default_address
from hostmanager_client.errors import PermissionDenied
from hostmanager_server.commands.default_paths import private_folder
from hostmanager_server.daemon.settings import DaemonSettings
from hostmanager_server.daemon.site_file import SiteFile
from hostmanager_server.drivers.compose.cli.program import ComposeError
from hostmanager_server.drivers.compose.files.catalog_reader import CatalogReader
from hostmanager_server.drivers.process.records.files import secure_directory
from hostmanager_server.linux import trusted_paths
from hostmanager_server.linux.lock_file import HeldError, take_lock_file
from hostmanager_server.linux.trusted_paths import (
    NotOursError,
    Trust,
    UntrustedError,
    make_private_directory,
    open_own_file,
    weaknesses,
)
from hostmanager_server.rpc.server import AddressError, Limits, Server, parse_listen
from hostmanager_server.state.journal import Journal
from hostmanager_server.state.state_directory import StateDir, StateDirError

from tests.rpc.harness import run, server_harness

FOREIGN_UID = 4711  # a user without an entry
VICTIM = "what stands here must stay"
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
STRICT = Trust(uid=0)


@pytest.fixture(autouse=True)
def no_mask() -> object:
    """Clear the umask, so that files get the modes that the daemon sets."""
    mask = os.umask(0)
    yield
    os.umask(mask)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    file = tmp_path / "victim"
    file.write_text(VICTIM)
    file.chmod(0o600)
    return file


def found(path: Path, uid: int = 0) -> list[str]:
    return [f"{each.path} {each.why}" for each in weaknesses(path, uid)]


# --- users with write access to a path


@ROOT
@pytest.mark.parametrize("which", ["site", "site/lab", "site/lab/site.yaml"])
@pytest.mark.parametrize(
    ("weaken", "why"),
    [
        (lambda path: path.chmod(0o777), "may be written by others (mode 0777); chmod o-w"),
        (lambda path: os.chown(path, FOREIGN_UID, 0), f"belongs to user {FOREIGN_UID}; chown root"),
    ],
)
def test_every_folder_and_the_file_itself_count(
    tmp_path: Path, which: str, weaken: Callable[[Path], None], why: str
) -> None:
    file = tmp_path / "site/lab/site.yaml"
    make_private_directory(file.parent)
    file.touch(mode=0o644)
    assert STRICT.check(file) == []
    weak = tmp_path / which
    weaken(weak)
    with pytest.raises(UntrustedError) as caught:
        STRICT.check(file)
    assert str(caught.value) == f"'{weak}' {why} '{weak}', or --trust-config"
    assert len(Trust(uid=0, override=True).check(file)) == 1
    assert len(Trust(uid=FOREIGN_UID + 1).check(file)) == 1, "for a plain user it is a warning"


@ROOT
def test_files_of_the_daemon_s_own_user_are_trusted(tmp_path: Path) -> None:
    os.chown(tmp_path, FOREIGN_UID, 0)
    assert found(tmp_path, FOREIGN_UID) == []
    assert len(found(tmp_path, 0)) == 1


def test_a_sticky_folder_keeps_entries_for_their_owners(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o1777)
    file = folder / "site.yaml"
    file.touch(mode=0o600)
    assert found(file, os.geteuid()) == []
    folder.chmod(0o777)
    assert len(found(file, os.geteuid())) == 1


@ROOT
def test_a_link_leads_where_its_owner_wants(tmp_path: Path) -> None:
    make_private_directory(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "loop").symlink_to("loop")
    assert found(tmp_path / "link" / "site.yaml") == []
    os.chown(tmp_path / "link", FOREIGN_UID, 0, follow_symlinks=False)
    assert found(tmp_path / "link") == [f"{tmp_path}/link belongs to user {FOREIGN_UID}"]
    os.chown(tmp_path / "link", 0, 0, follow_symlinks=False)
    (tmp_path / "real").chmod(0o777)
    assert found(tmp_path / "link/../link/x") == [f"{tmp_path}/real may be written by others (mode 0777)"] * 2
    with pytest.raises(OSError, match="Too many levels"):
        found(tmp_path / "loop")


def test_a_group_that_may_write_counts_as_others_unless_it_is_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "site.yaml"
    file.touch()
    file.chmod(0o664)
    for private in (True, False):
        monkeypatch.setattr(trusted_paths, "_is_private", lambda *_, private=private: private)
        assert len(found(file, os.geteuid())) == (0 if private else 1)


@ROOT
def test_roots_group_is_private_and_an_unnamed_one_is_not(tmp_path: Path) -> None:
    tmp_path.chmod(0o775)
    assert found(tmp_path) == []
    os.chown(tmp_path, 0, FOREIGN_UID)
    assert found(tmp_path) == [f"{tmp_path} may be written by its group {FOREIGN_UID} (mode 0775)"]


def test_a_check_leaves_no_descriptor(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    for path in ("x", "link/x/y", "link/link", "link/.."):
        found(tmp_path / path)
    assert len(os.listdir("/proc/self/fd")) == before


# --- foreign files in the place of the daemon's


def put_in_place(kind: str, place: Path, victim: Path) -> None:
    match kind:
        case "link":
            place.symlink_to(victim)
        case "hard link":
            place.hardlink_to(victim)
        case "pipe":
            os.mkfifo(place)
        case "folder":
            place.mkdir()
        case "dangling":
            place.symlink_to(victim.with_name("elsewhere"))


PLANTED = pytest.mark.parametrize("kind", ["link", "hard link", "pipe", "folder", "dangling"])


def check_untouched(victim: Path) -> None:
    assert victim.read_text() == VICTIM
    assert not victim.with_name("elsewhere").exists()


@PLANTED
def test_nothing_is_locked_or_written_in_another_files_place(tmp_path: Path, victim: Path, kind: str) -> None:
    put_in_place(kind, tmp_path / "lock", victim)
    with pytest.raises(NotOursError, match="find out its origin"):
        take_lock_file(tmp_path / "lock")
    check_untouched(victim)


@PLANTED
def test_a_state_directory_with_a_foreign_lock_file_is_refused(
    tmp_path: Path, victim: Path, kind: str
) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    put_in_place(kind, state / "lock", victim)
    with pytest.raises(StateDirError, match="cannot use the state directory"):
        StateDir(state)
    check_untouched(victim)


@PLANTED
def test_a_socket_with_a_foreign_lock_file_is_refused(tmp_path: Path, victim: Path, kind: str) -> None:
    async def scenario() -> None:
        async with server_harness(tmp_path) as h:
            put_in_place(kind, tmp_path / "x.lock", victim)
            listen = [parse_listen(f"unix:{tmp_path}/x", insecure=False)]
            server = Server(h.context, listen, Limits(), tcp_reflection=False)
            try:
                with pytest.raises(AddressError, match="cannot listen on unix:"):
                    server.bind()
            finally:
                await server.stop()

    run(scenario())
    check_untouched(victim)
    assert not (tmp_path / "x").exists()


@PLANTED
def test_no_socket_replaces_a_foreign_file(tmp_path: Path, victim: Path, kind: str) -> None:
    async def scenario() -> None:
        async with server_harness(tmp_path / "harness") as h:
            put_in_place(kind, tmp_path / "x", victim)
            listen = [parse_listen(f"unix:{tmp_path}/x", insecure=False)]
            server = Server(h.context, listen, Limits(), tcp_reflection=False)
            try:
                with pytest.raises(AddressError, match="is not a socket"):
                    server.bind()
            finally:
                await server.stop()

    run(scenario())
    check_untouched(victim)
    assert not (tmp_path / "x.lock").exists()


@ROOT
def test_a_lock_of_another_user_is_refused(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.write_text("1234")
    os.chown(lock, FOREIGN_UID, 0)
    with pytest.raises(NotOursError, match=f"belongs to user {FOREIGN_UID}"):
        take_lock_file(lock)
    assert lock.read_text() == "1234"
    os.close(take_lock_file(lock, any_owner=True))


def test_a_lock_names_its_holder_and_is_for_its_user_only(tmp_path: Path) -> None:
    lock = take_lock_file(tmp_path / "lock")
    assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == 0o600
    with pytest.raises(HeldError, match=f"the daemon with pid {os.getpid()}"):
        take_lock_file(tmp_path / "lock")
    os.close(lock)


def test_folders_are_made_for_their_owner_whatever_the_mask(tmp_path: Path) -> None:
    make_private_directory(tmp_path / "a/b/c")
    modes = [stat.S_IMODE((tmp_path / each).stat().st_mode) for each in ("a", "a/b", "a/b/c")]
    assert modes == [0o755, 0o755, 0o700]


# --- the state directory, the journal, the socket's directory, compose files


@ROOT
@pytest.mark.parametrize("weak", ["parent", "state", "state/journal.sqlite", "state/site-config.json"])
def test_root_refuses_a_state_directory_that_others_may_write(
    tmp_path: Path, weak: str, caplog: pytest.LogCaptureFixture
) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    for name in ("journal.sqlite", "site-config.json"):
        (state / name).touch(mode=0o600)
    os.chown(tmp_path if weak == "parent" else tmp_path / weak, FOREIGN_UID, 0)
    with pytest.raises(StateDirError, match="--trust-config, or choose another with --state-dir"):
        StateDir(state, None, STRICT)
    StateDir(state, None, Trust(uid=0, override=True)).close()
    if "/" not in weak:
        assert "--trust-config allows it" in caplog.text


@ROOT
@pytest.mark.parametrize("name", ["runs", "logs"])
@pytest.mark.parametrize("kind", ["owner", "mode", "group", "link", "file"])
def test_root_refuses_a_subdirectory_of_the_state_directory_that_others_may_change(
    tmp_path: Path, name: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    folder = state / name
    match kind:
        case "owner":
            folder.mkdir(mode=0o755)
            os.chown(folder, FOREIGN_UID, 0)
        case "mode":
            folder.mkdir(mode=0o777)
        case "group":
            folder.mkdir(mode=0o770)
            os.chown(folder, 0, FOREIGN_UID)
        case "link":
            (tmp_path / "elsewhere").mkdir(mode=0o755)
            folder.symlink_to(tmp_path / "elsewhere")
        case "file":
            folder.touch(mode=0o600)
    with pytest.raises(StateDirError, match=f"{name}'.*--trust-config, or choose another with --state-dir"):
        StateDir(state, None, STRICT)
    StateDir(state, None, Trust(uid=0, override=True)).close()
    assert "--trust-config allows it" in caplog.text
    caplog.clear()
    StateDir(state, None, Trust(uid=FOREIGN_UID + 1)).close()
    assert f"state/{name}'" in caplog.text, "for a plain user it is a warning"


@ROOT
def test_root_uses_a_state_directory_as_the_daemon_makes_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = tmp_path / "state"
    for _ in range(2):
        StateDir(state, None, STRICT).close()
        secure_directory(state / "runs")
        (state / "logs").mkdir(mode=0o750, exist_ok=True)
    assert caplog.text == ""


def test_the_directory_of_records_is_not_restricted_through_a_link(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = tmp_path / "target"
    target.mkdir(mode=0o755)
    (tmp_path / "runs").symlink_to(target)
    secure_directory(tmp_path / "runs")
    assert stat.S_IMODE(target.stat().st_mode) == 0o755
    assert "the path is a symbolic link" in caplog.text


def test_a_journal_is_for_its_user_only_and_an_older_one_becomes_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def modes() -> dict[str, int]:
        return {each.name: stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()}

    path = tmp_path / "journal.sqlite"
    journal = Journal(path, "boot")
    journal.open()
    journal.end().result(60)
    assert set(modes().values()) == {0o600}
    journal.close()
    assert caplog.text == ""
    path.chmod(0o644)
    journal = Journal(path, "boot")
    with caplog.at_level(logging.WARNING):
        assert journal.open().ended
    assert f"other users could read {path} (mode 0644)" in caplog.text
    assert set(modes().values()) == {0o600}
    journal.close()


def test_a_link_in_the_journals_place_is_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE precious (a)")
    before = other.read_bytes()
    (tmp_path / "journal.sqlite").symlink_to(other)
    with pytest.raises(NotOursError, match="is a symbolic link"):
        Journal(tmp_path / "journal.sqlite", "boot").open()
    assert other.read_bytes() == before


@ROOT
def test_root_refuses_a_socket_in_a_folder_that_others_may_write(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with server_harness(tmp_path / "harness") as h:
            for trust in (STRICT, Trust(uid=0, override=True)):
                listen = [parse_listen(f"unix:{tmp_path}/open/x", insecure=False)]
                server = Server(h.context, listen, Limits(), tcp_reflection=False, trust=trust)
                try:
                    if trust.refuses:
                        with pytest.raises(AddressError, match="may be written by others"):
                            server.bind()
                    else:
                        assert server.bind()
                finally:
                    await server.stop()

    (tmp_path / "open").mkdir(mode=0o777)
    run(scenario())


@ROOT
def test_a_site_file_that_others_may_write_now_leaves_the_last_good_one_in_force(tmp_path: Path) -> None:
    lab, state = tmp_path / "lab", tmp_path / "state"
    for folder in (lab, state):
        folder.mkdir(mode=0o700)
    file = lab / "site.yaml"
    file.write_text("hosts: {localhost: {agent-instances: [{agent-class: A, instance-id: a}]}}\n")
    file.chmod(0o644)
    settings = DaemonSettings(file, state, (), host="localhost", working_dir=lab, trust=STRICT)
    site = SiteFile(settings)
    first = site.load()
    assert first.ok
    site.keep(first)

    lab.chmod(0o777)
    file.write_text("hosts: {localhost: {agent-instances: [{agent-class: A, instance-id: theirs}]}}\n")
    reloaded = site.load()
    assert (reloaded.ok, reloaded.spec) == (False, None)
    started_again = SiteFile(settings).load()
    assert (started_again.ok, started_again.stale, started_again.spec) == (False, True, first.spec)
    assert f"'{lab}' may be written by others" in started_again.problems[0].message
    trusting = SiteFile(replace(settings, trust=Trust(uid=0, override=True))).load()
    assert trusting.spec is not None
    assert [each.instance_id for each in trusting.spec.instances] == ["theirs"]


@pytest.mark.parametrize("kind", ["link", "file", "open", "stranger"])
def test_a_default_socket_folder_that_another_may_have_made_is_refused(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "hostmanager-1"
    match kind:
        case "link":
            (tmp_path / "real").mkdir(mode=0o700)
            folder.symlink_to("real")
        case "file":
            folder.touch()
        case "open":
            folder.mkdir(mode=0o755)
        case "stranger":
            if os.geteuid() != 0:
                pytest.skip("only root can give a folder away")
            folder.mkdir(mode=0o700)
            os.chown(folder, FOREIGN_UID, 0)
    with pytest.raises(AddressError, match=f"'{folder}' .* must be a directory of yours with mode 0700"):
        private_folder(folder / "hostmanager.sock")


@ROOT
@pytest.mark.parametrize("weak", ["compose.yaml", "agents.env", "base.yaml", ".env", "."])
def test_root_refuses_compose_files_that_others_may_write(tmp_path: Path, weak: str) -> None:
    lab = tmp_path / "lab"
    lab.mkdir(mode=0o755)
    (lab / "compose.yaml").write_text(
        "include: [base.yaml]\nservices: {a: {image: x, env_file: agents.env}}\n"
    )
    (lab / "base.yaml").write_text("services: {b: {image: x}}\n")
    for name in ("agents.env", ".env"):
        (lab / name).touch()
    for file in lab.iterdir():
        file.chmod(0o644)
    program = tmp_path / "compose"
    program.write_text(
        f"#!/bin/sh\n[ \"$*\" = 'version --short' ] && echo 2.26.0 && exit\ntouch {tmp_path}/called; exit 1\n"
    )
    program.chmod(0o755)

    def problems(trust: Trust) -> list[str]:
        reader = CatalogReader(
            ["compose.yaml"], prefix="ocs-", program=str(program), working_dir=lab, environ={}, trust=trust
        )
        return [str(p) for file in reader.load().problems.values() for p in file]

    reader = CatalogReader(
        ["compose.yaml"], prefix="ocs-", program=str(program), working_dir=lab, environ={}, trust=STRICT
    )
    reader.load()
    reader.check()
    (tmp_path / "called").unlink()

    (lab / weak).chmod(0o777)
    with pytest.raises(ComposeError, match="others may choose what compose runs"):
        reader.check()  # the driver checks before each compose call, which reads the files again
    [problem] = problems(STRICT)
    assert f"'{lab / weak}' may be written by others (mode 0777)" in problem
    assert not (tmp_path / "called").exists()
    problems(Trust(uid=0, override=True))
    assert (tmp_path / "called").exists()


# --- the client


def listen_at(path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


@pytest.fixture
def runtime() -> object:
    import tempfile

    if Path("/run/hostmanager/hostmanager.sock").exists():
        pytest.skip("a daemon of the system runs here")
    with tempfile.TemporaryDirectory(prefix="hm-") as folder:
        (Path(folder) / "hostmanager").mkdir(mode=0o700)
        yield Path(folder)


@pytest.mark.parametrize("kind", ["ours", "open", "link", "stranger's folder", "stranger's socket"])
def test_the_client_refuses_a_socket_of_another_user(runtime: Path, kind: str) -> None:
    folder = runtime / "hostmanager"
    path = folder / "hostmanager.sock"
    listen_at(path)
    if "stranger" in kind and os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    match kind:
        case "open":
            folder.chmod(0o777)
        case "link":
            folder.rename(runtime / "real")
            folder.symlink_to("real")
        case "stranger's folder":
            os.chown(folder, FOREIGN_UID, 0)
        case "stranger's socket":
            os.chown(path, FOREIGN_UID, 0)
    environ = {"XDG_RUNTIME_DIR": str(runtime)}
    if kind == "ours":
        assert default_address(environ, os.geteuid()).path == str(path)
        return
    with pytest.raises(PermissionDenied, match="another user may listen there"):
        default_address(environ, os.geteuid())
    named = environ | {"HOSTMANAGER_ADDRESS": str(path)}
    assert default_address(named, os.geteuid()).path == str(path), "an address that was named is used"


def test_a_new_file_of_ours_is_private(tmp_path: Path) -> None:
    os.close(open_own_file(tmp_path / "x", os.O_RDWR))
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o600
