"""Repeated readings of a site config, compared with readings from scratch."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hostmanager_server.config import load as load_module
from hostmanager_server.config.document import Node, compose
from hostmanager_server.config.kept_entries import ShortText
from hostmanager_server.config.load import LoadedConfig, load_site_config
from hostmanager_server.config.reload import RepeatedLoad
from hostmanager_server.linux.trusted_paths import Trust
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

# Entries of a list at six blanks: plain, with each kind of problem, with texts that look like other entries.
ENTRIES = [
    "- agent-class: A\n  instance-id: {id}\n",
    "- {{agent-class: A, instance-id: {id}, arguments: [--x, 1]}}\n",
    "- instance-id: {id}\n  agent-class: B\n  command: [x]\n  depends-on: [i0]\n",
    "- instance-id: {id}\n  agent-class: A\n  depends-on: [i1, i2]\n",
    "-   instance-id: {id}\n    agent-class: A\n    # a comment\n\n",
    "- instance-id: {id}\n  agent-class: A\n  env:\n    TEXT: |\n        - agent-class: A\n",
    "- instance-id: {id}\n  agent-class: A\n  env:\n    TEXT: 'from\n\n    - here'\n",
    "- instance-id: {id}\n  agent-class: A\n  arguments:\n  - a\n  - |+\n    b\n\n",
    "- agent-class: A\n  instance-id: >-\n    {id}\n",
    "- instance-id: {id}\n  agent-class: A\n  env:\n    TEXT: 'from\n- agent-class: A'\n",
    "- instance-id: {id}\n  agent-class: Unknown\n",
    "- instance-id: {id}\n  agent-class: A\n  comand: [x]\n",
    "- instance-id: {id}\n  agent-class: A\n  manage: maybe\n",
    "- instance-id: {id}\n  agent-class: A\n  manage: no\n",
    "- instance-id: {id}\n  agent-class: A\n  manage: docker/down\n",
    "- instance-id: {id}\n  agent-class: HostManager\n  arguments: [--quiet]\n",
    "- instance-id: {id}\n  agent-class: A\n  env: {{PASSWORD: {id}}}\n",
    "- instance-id: {id}\n  agent-class: A\n  working-dir: ~/x\n",
    "- instance-id: {id}\n  agent-class: A\n  env-file: one.env\n",
    "- instance-id: {id}\n  agent-class: WithFile\n  env-file: [-two.env]\n",
    "- &anchor{id}\n  instance-id: {id}\n  agent-class: A\n",
    "- <<: *common\n  instance-id: {id}\n",
    "- instance-id: {id}\n  agent-class: A\n  arguments: ['unclosed]\n",
    "- instance-id: {id}\n  agent-class: A\n  arguments: [quote']\n",
    "-\n  instance-id: {id}\n  agent-class: A\n",
    "- - instance-id: {id}\n",
    "- text\n",
    "-\n",
]
HEADS = [
    "hosts:\n  localhost:\n    agent-instances:\n",
    "x-common: &common {agent-class: A}\nhosts:\n  localhost:\n    log-dir: /l\n    agent-instances:\n",
    "# more\nhosts:\n  localhost:\n    env-inherit: [TZ]\n    agent-instances:\n",
    "hosts:\n  other:\n    agent-instances:\n      - agent-class: A\n  localhost:\n    agent-instances:\n",
    "hosts:\n  localhost:\n    agent-instances:\n      - |\n",
    "hosts:\n  localhost:\n    x-list:\n      - {agent-class: A, instance-id: i0}\n    agent-instances:\n",
]
TAILS = [
    "agent-classes:\n  A: {command: [a]}\n  B: {}\n  WithFile: {command: [w], env-file: one.env}\n",
    "\nagent-classes:\n  A: {command: [other]}\n  B: {}\n  WithFile: {command: [w]}\n",
    "    address: host:1\nagent-classes: {A: {command: [a], depends-on: [i3]}}\n",
    "  elsewhere:\n    agent-instances:\n      - agent-class: A\nagent-classes: {A: {command: a}}\n",
    "...\n",
]


class ReloadedSite:
    """A site config file, loaded repeatedly and from scratch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "site.yaml"
        self._repeated = RepeatedLoad()

    def write(self, text: str, mode: int = 0o600) -> None:
        self.file.write_text(text, newline="")
        self.file.chmod(mode)

    def load(self, trust: Trust | None = None) -> LoadedConfig:
        """Return the repeated reading after a comparison with one from scratch."""
        found = self._repeated.load(self.file, host="localhost", working_dir=self.folder, trust=trust)
        fresh = load_site_config(self.file, host="localhost", working_dir=self.folder, trust=trust)
        assert found == fresh
        return found


@pytest.fixture
def site(tmp_path: Path) -> ReloadedSite:
    return ReloadedSite(tmp_path)


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of the texts that a repeated reading gives to the parser."""
    texts: list[str] = []

    def recorded(text: str, kept: dict[str, tuple[int, int]]) -> Node | None:
        texts.append(text)
        return compose(text, kept)

    monkeypatch.setattr(load_module, "compose", recorded)
    return texts


def entries(count: int = 5) -> str:
    return "".join(f"      - agent-class: A\n        instance-id: i{number}\n" for number in range(count))


def text_of(head: int, chosen: list[tuple[int, int]], tail: int) -> str:
    lines = [
        f"      {line}" if line.strip() else line
        for entry, number in chosen
        for line in ENTRIES[entry].format(id=f"i{number}").splitlines(keepends=True)
    ]
    return HEADS[head] + "".join(lines) + TAILS[tail]


# Mostly entries without problems, or no reading would ever keep anything.
ENTRY = st.one_of(st.integers(0, 9), st.integers(0, 4), st.integers(0, len(ENTRIES) - 1))
EDITS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 7), ENTRY, st.integers(0, 9)), max_size=3)
VERSION = st.tuples(
    EDITS,
    st.one_of(st.just(0), st.integers(0, len(HEADS) - 1)),
    st.one_of(st.just(0), st.integers(0, len(TAILS) - 1)),
    st.sampled_from(["A=1\n", "A=2\n", "no variable\n", None]),
    st.sampled_from([0o600, 0o600, 0o604]),
)


@settings(
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(versions=st.lists(VERSION, min_size=2, max_size=6))
def test_a_repeated_reading_equals_a_reading_from_scratch(
    versions: list[tuple[list[tuple[int, int, int, int]], int, int, str | None, int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    site = ReloadedSite(tmp_path_factory.mktemp("site"))
    chosen = [(0, number) for number in range(6)]
    for edits, head, tail, variables, mode in versions:
        for how, at, entry, number in edits:
            if how == 0:
                chosen.insert(at, (entry, number))
            elif chosen and how == 1:
                del chosen[at % len(chosen)]
            elif chosen and how == 2:
                chosen[at % len(chosen)] = entry, chosen[at % len(chosen)][1]
            elif chosen:
                chosen.append(chosen.pop(at % len(chosen)))
        env_file = site.folder / "one.env"
        env_file.unlink(missing_ok=True)
        if variables is not None:
            env_file.write_text(variables)
            env_file.chmod(0o600)
        site.write(text_of(head, chosen, tail), mode)
        site.load()
        site.load()


ALPHABET = [*"-'\"|>&*#:{}[],?!%~ \n\t\r\x85", "      - ", "\n      - agent-class: A\n", "---\n", "  "]


def damaged(text: str, seed: int) -> str:
    """Return the text with characters of YAML put in, and pieces cut out."""
    choice = random.Random(seed)
    for _ in range(choice.randint(1, 3)):
        at = choice.randrange(len(text))
        cut = choice.choice([0, 0, 1, 5, 40])
        text = text[:at] + choice.choice(ALPHABET) + text[at + cut :]
    return text


def test_any_damage_to_a_file_is_seen_as_by_a_reading_from_scratch(site: ReloadedSite) -> None:
    choice = random.Random(7)
    for seed in range(40):
        chosen = [(choice.randrange(10), number) for number in range(7)]
        text = text_of(seed % 2, chosen, 0)
        site.write(text)
        site.load()
        site.write(damaged(text, seed))
        site.load()


def test_an_unchanged_file_is_not_parsed(site: ReloadedSite, composed: list[str]) -> None:
    site.write(HEADS[0] + entries() + TAILS[0])
    first = site._repeated.load(site.file, host="localhost", working_dir=site.folder)
    again = site._repeated.load(site.file, host="localhost", working_dir=site.folder)
    assert again == first
    assert again.spec is first.spec
    assert len(composed) == 1


def test_a_changed_entry_is_parsed_without_the_others(site: ReloadedSite, composed: list[str]) -> None:
    site.write(HEADS[0] + entries() + TAILS[0])
    site.load()
    site.write("# moved\n" + HEADS[0] + entries().replace("i2", "changed") + TAILS[0])
    composed.clear()
    config = site._repeated.load(site.file, host="localhost", working_dir=site.folder)
    assert config.ok
    (text,) = composed
    assert "changed" in text
    assert not [name for name in ("i0", "i1", "i3") if name in text]
    assert config == load_site_config(site.file, host="localhost", working_dir=site.folder)


def changed_with_old_times(site: ReloadedSite) -> None:
    before = site.file.stat()
    site.file.write_text(site.file.read_text().replace("i1", "j1"))
    os.utime(site.file, ns=(before.st_atime_ns, before.st_mtime_ns))


def removed(site: ReloadedSite) -> None:
    site.file.unlink()


def replaced_by_a_folder(site: ReloadedSite) -> None:
    site.file.unlink()
    site.file.mkdir()


def no_text(site: ReloadedSite) -> None:
    site.file.write_bytes(b"\xff")


@pytest.mark.parametrize("change", [changed_with_old_times, removed, replaced_by_a_folder, no_text])
def test_no_change_is_hidden_and_a_reverted_file_is_as_before(site: ReloadedSite, change: object) -> None:
    text = HEADS[0] + entries() + TAILS[0]
    site.write(text)
    before = site.load()
    assert callable(change)
    change(site)
    assert site.load() != before
    if site.file.is_dir():
        site.file.rmdir()
    site.write(text)
    assert site.load() == before


@pytest.mark.parametrize("text", ["A=2\n", "no variable\n", None])
@pytest.mark.parametrize("entry", [18, 19])
def test_a_changed_env_file_is_noticed_in_an_unchanged_config(
    site: ReloadedSite, entry: int, text: str | None
) -> None:
    env_file = site.folder / "one.env"
    env_file.write_text("A=1\n")
    env_file.chmod(0o600)
    site.write(text_of(0, [(entry, 0), (0, 1)], 0))
    before = site.load()
    times = env_file.stat()
    if text is None:
        env_file.unlink()
    else:
        env_file.write_text(text)
        os.utime(env_file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert site.load() != before
    env_file.write_text("A=1\n")
    env_file.chmod(0o600)
    assert site.load() == before
    env_file.chmod(0o604)
    assert len(site.load().problems) > len(before.problems)


def test_a_moved_home_directory_is_noticed(site: ReloadedSite, monkeypatch: pytest.MonkeyPatch) -> None:
    site.write(text_of(0, [(17, 0), (0, 1), (0, 2)], 0))
    for home in ("/one", "/two", "/one"):
        monkeypatch.setenv("HOME", home)
        config = site.load()
        assert config.spec is not None
        process = config.spec.instances[0].process
        assert process is not None
        assert process.working_dir == f"{home}/x"
        site.write(site.file.read_text() + "# changed\n")


def test_access_of_others_is_checked_at_each_reading(site: ReloadedSite) -> None:
    site.write(HEADS[0] + entries() + TAILS[0])
    plain = Trust(uid=os.geteuid() or 4711)
    before = site.load(plain).problems
    site.file.chmod(0o606)
    assert len(site.load(plain).problems) > len(before)
    if os.geteuid() == 0:
        assert not site.load(Trust(uid=0)).ok
    site.file.chmod(0o600)
    assert site.load(plain).problems == before


def test_an_agent_that_was_installed_is_found_in_an_unchanged_config(
    site: ReloadedSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.write(text_of(0, [(10, 0), (0, 1)], 0))
    assert any("has no command" in problem.message for problem in site.load().problems)
    package = tmp_path / "packages" / "unknown-1.dist-info"
    package.mkdir(parents=True)
    (package / "entry_points.txt").write_text("[hostmanager.agents]\nUnknown = unknown:main\n")
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: unknown\nVersion: 1\n")
    monkeypatch.syspath_prepend(package.parent)
    assert site.load().problems == ()


def test_the_name_of_the_machine_is_asked_for_at_each_reading(
    site: ReloadedSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.write("hosts:\n  one: {agent-instances: []}\n  two: {agent-instances: []}\n")
    for name in ("one", "two", "three"):
        monkeypatch.setattr("socket.gethostname", lambda name=name: name)
        found = site._repeated.load(site.file, working_dir=site.folder)
        assert found == load_site_config(site.file, working_dir=site.folder)
        assert found.host == (name if name != "three" else "")


@pytest.fixture
def shortened(monkeypatch: pytest.MonkeyPatch) -> list[ShortText]:
    """Return the list of the texts with markers that led to a config."""
    found: list[ShortText] = []
    keep = RepeatedLoad._keep

    def recorded(self: RepeatedLoad, source: object, read: object, short: ShortText | None) -> None:
        if short is not None:
            found.append(short)
        keep(self, source, read, short)  # type: ignore[arg-type]  # spied on

    monkeypatch.setattr(RepeatedLoad, "_keep", recorded)
    return found


@pytest.mark.parametrize(("entry", "kept"), [*((n, [5, 6]) for n in (0, 1, 4, 5, 6, 7, 8)), (9, [1])])
def test_entries_without_problems_are_kept(
    site: ReloadedSite, shortened: list[ShortText], entry: int, kept: list[int]
) -> None:
    chosen = [(entry, number) for number in range(6)]
    site.write(text_of(0, chosen, 0))
    site.load()
    site.write(text_of(0, [(0, 9), *chosen], 0))
    site.load()
    site.write(text_of(0, [(0, 8), (0, 9), *chosen], 0))
    site.load()
    assert [len(short.kept) for short in shortened] == kept
