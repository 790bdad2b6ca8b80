"""Repeated readings of a site config file: a reading of an unchanged file costs its digest.

A changed file is read without the entries that are as before. Nothing rests on the time of a change: each
reading compares contents, checks owners and modes, and asks again for all that the config depends on.
"""

from __future__ import annotations

from pathlib import Path

from hostmanager.values import dataclass, replace

from hostmanager_server.config.document import LINES_PER_FILE
from hostmanager_server.config.hosts import host_names
from hostmanager_server.config.kept_entries import KeptEntries, ShortText, entries_to_keep
from hostmanager_server.config.launchers import Launchers
from hostmanager_server.config.load import (
    LoadedConfig,
    ReadConfig,
    SourceText,
    read_config,
    read_source,
)
from hostmanager_server.config.machine import MachineFacts
from hostmanager_server.config.node_reader import MAX_PROBLEMS
from hostmanager_server.config.read_entry import NOWHERE
from hostmanager_server.core.digests import sha256
from hostmanager_server.core.manager_status import Problem
from hostmanager_server.linux.trusted_paths import Trust


@dataclass(frozen=True, slots=True)
class _Key:
    """The inputs of a reading, other than those that the config names."""

    file: Path
    working_dir: Path
    hosts: tuple[str, ...]
    digest: bytes  # of the text
    public: bool
    problems: tuple[Problem, ...]  # of owners and modes


@dataclass(frozen=True, slots=True)
class _LastReading:
    key: _Key
    config: LoadedConfig  # without its text
    has_text: bool  # a config without an entry for the host has none
    launchers: Launchers | None
    machine: MachineFacts

    def holds(self) -> bool:
        """Return whether all that the config depends on is as it was."""
        known = self.launchers
        if known is not None and Launchers(known.file, known.working_dir, known.classes) != known:
            return False
        return self.machine.hold()


class RepeatedLoad:
    """Loads a site config again and again. One thread at a time may use an object."""

    def __init__(self) -> None:
        self._last: _LastReading | None = None
        self._entries: KeptEntries | None = None
        self._machine = MachineFacts()

    def load(
        self,
        file: Path,
        *,
        host: str | None = None,
        working_dir: Path | None = None,
        trust: Trust | None = None,
    ) -> LoadedConfig:
        """Return what `load_site_config` would return."""
        machine = self._facts()
        source = read_source(file, working_dir, None, MAX_PROBLEMS, trust, machine)
        if source.text is None:
            return read_config(source, host).config
        key = _Key(
            file.absolute(),
            source.working_dir,
            host_names(host),
            sha256(source.text.encode()).digest(),
            source.public,
            source.reader.problems,
        )
        last = self._last
        if last is not None and last.key == key and last.holds():
            return replace(last.config, text=source.text) if last.has_text else last.config
        read = self._read_changes(source, host) or self._read_all(source, host)
        self._last = _LastReading(
            key, replace(read.config, text=""), bool(read.config.text), read.launchers, machine
        )
        self._machine = machine
        return read.config

    def _facts(self) -> MachineFacts:
        """Return facts for a reading; without the kept entries if the home directories moved."""
        if self._machine.homes_hold():
            return self._machine.with_homes_only()
        self._entries = None
        return MachineFacts()

    def _read_changes(self, source: SourceText, host: str | None) -> ReadConfig | None:
        """Read a text without its kept entries; None if only a reading of all can tell the result."""
        assert source.text is not None
        entries = self._entries
        if entries is None or entries.public is not source.public:
            return None
        short = entries.shorten(source.text)
        if short is None:
            return None
        read = read_config(source, host, short)
        config = read.config
        if not config.ok or read.context is None or not short.all_found(read.nodes):
            return None
        if read.context.without_places() != entries.context:
            return None
        if not read.complete or any(problem.line == NOWHERE.line for problem in config.problems):
            return None
        self._keep(source, read, short)
        return read

    def _keep(self, source: SourceText, read: ReadConfig, short: ShortText | None) -> None:
        assert source.text is not None
        assert read.instances is not None
        assert read.context is not None
        context, problems = read.context.without_places(), read.config.problems
        nodes = [node for node in read.nodes if node.line < LINES_PER_FILE]  # those of included files follow
        self._entries = entries_to_keep(
            source.text, nodes, read.instances, context, problems, short, public=source.public
        )

    def _read_all(self, source: SourceText, host: str | None) -> ReadConfig:
        read = read_config(source, host)
        if read.config.ok and read.complete:
            self._keep(source, read, None)
        return read
