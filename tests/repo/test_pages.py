"""Examples in the pages: links, site configs, commands and API calls."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import click
import pytest
import yaml
from google.protobuf import json_format, message_factory
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_client.cli.app import cli
from hostmanager_server.config.load import load_site_config

from tests.repo.pages import PAGES, ROOT, Example, commands_of, examples, name, prose

SERVICE = pb.DESCRIPTOR.services_by_name["HostManagerService"]
GENERATED = ("docs/reference/commands.md", "docs/reference/contract.md")
SITES = [example for example in examples("yaml") if "\nhosts:" in f"\n{example.text}"]
COMPOSE_FILES = [example for example in examples("yaml") if "\nservices:" in f"\n{example.text}"]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose(page))
    local = [target for target in targets if not target.startswith(("http:", "https:", "mailto:"))]
    assert [target for target in local if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_lines_of_prose_have_at_most_120_columns(page: Path) -> None:
    lines = [line for line in prose(page).splitlines() if not line.startswith(("|", "<!--"))]
    assert [line for line in lines if len(line) > 120] == []


def test_the_generated_pages_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/generate_reference.py", "--check"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_the_command_page_names_every_command_and_no_other() -> None:
    page = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `hostmanager ([a-z\\|]+)", page, re.MULTILINE)
    named = {word for row in rows for word in row.replace("\\", "").split("|")}
    assert named == set(cli.list_commands(click.Context(cli)))


# --- Python and YAML


@pytest.mark.parametrize("sample", examples("python"), ids=str)
def test_python_samples_are_python(sample: Example) -> None:
    ast.parse(sample.text)


@pytest.mark.parametrize("sample", examples("json"), ids=str)
def test_json_samples_are_json(sample: Example) -> None:
    json.loads(sample.text)


@pytest.mark.parametrize("sample", SITES, ids=str)
def test_site_configs_have_no_problem(sample: Example, tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(sample.text, encoding="utf-8")
    assert_good(file)


@pytest.mark.parametrize("sample", COMPOSE_FILES, ids=str)
def test_compose_files_define_their_services(sample: Example) -> None:
    services = yaml.safe_load(sample.text)["services"]
    assert services
    assert [service for service, keys in services.items() if "image" not in keys] == []


@pytest.mark.parametrize("sample", [sample for sample in examples("ini") if ".env\n" in sample.text], ids=str)
def test_files_of_variables_have_no_problem(sample: Example, tmp_path: Path) -> None:
    file = tmp_path / "agent.env"
    file.touch(mode=0o600)
    file.write_text(sample.text, encoding="utf-8")
    site = tmp_path / "site.yaml"
    instance = {"instance-id": "a", "agent-class": "A", "command": "true", "env-file": str(file)}
    site.write_text(yaml.safe_dump({"hosts": {"localhost": {"agent-instances": [instance]}}}))
    assert_good(site)


def test_every_yaml_sample_is_checked() -> None:
    assert {*examples("yaml")} == {*SITES, *COMPOSE_FILES}


@pytest.mark.parametrize("site", ["site.yaml", "weather-station/site.yaml"])
def test_the_example_sites_are_good(site: str) -> None:
    assert_good(ROOT / "examples" / site)


def assert_good(file: Path) -> None:
    """Assert that a site config has no problem, and a command for every instance."""
    loaded = load_site_config(file, host="localhost", working_dir=ROOT)
    assert loaded.problems == ()
    assert loaded.spec is not None
    assert [instance.problem for instance in loaded.spec.instances if instance.problem] == []


# --- commands


def parse(arguments: Sequence[str]) -> None:
    """Parse a command line of hostmanager as the program does. Raises UsageError."""
    command: click.Command = cli
    context = click.Context(cli, info_name="hostmanager")
    rest = [*arguments]
    while True:
        context = command.make_context(context.info_name, rest, parent=context.parent)
        if not isinstance(command, click.Group):
            return
        _, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None
        command, context = found, click.Context(found, info_name=found.name, parent=context)


@pytest.mark.parametrize(
    "arguments",
    [pytest.param(rest, id=f"{where} {' '.join(rest)}") for where, rest in commands_of("hostmanager")],
)
def test_commands_of_the_examples_are_understood(arguments: list[str]) -> None:
    parse(arguments)


def test_a_command_line_with_a_wrong_option_is_found() -> None:
    parse(["up", "heater", "--wait"])
    with pytest.raises(click.UsageError):
        parse(["up", "heater", "--weight"])
    with pytest.raises(click.UsageError):
        parse(["manager", "pause"])


def spans(page: Path) -> list[str]:
    """Return the calls of hostmanager in the prose of a page."""
    found = re.findall(r"`(hostmanager [^`]+)`", prose(page))
    return [span.replace("\\|", "|").partition(" | ")[0] for span in found]


@pytest.mark.parametrize("page", [page for page in PAGES if name(page) not in GENERATED], ids=name)
def test_commands_in_the_text_exist_with_their_options(page: Path) -> None:
    unknown = [span for span in spans(page) if not known(span)]
    assert unknown == []


def known(span: str) -> bool:
    """Return whether each command and option of a span exists.

    `a|b` stands for both commands; a word that is no command or option may have any text.
    """
    plain = re.sub(r"[\[\]]|\.\.\.|…", " ", span).split()[1:]
    command: click.Command = cli
    for word in plain:
        if word.startswith("-"):
            spellings = {s for param in command.params for s in (*param.opts, *param.secondary_opts)}
            if word.partition("=")[0] not in spellings | {"--help", "--version", "--"}:
                return False
        elif isinstance(command, click.Group):
            choices = [command.get_command(click.Context(command), choice) for choice in word.split("|")]
            if None in choices:
                return False
            first = choices[0]
            assert first is not None
            command = first
    return True


def test_make_targets_of_the_pages_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {
        word
        for page in PAGES
        for text in (
            re.findall(r"`make ([a-z][a-z-]*)", prose(page)),
            [arguments[0] for arguments in makes(page)],
        )
        for word in text
    }
    assert named >= {"demo", "test", "check", "docs"}
    assert named - targets == set()


def makes(page: Path) -> list[list[str]]:
    found = [arguments for _, arguments in commands_of("make", [page])]
    return [arguments for arguments in found if arguments and not arguments[0].startswith("-")]


@pytest.mark.parametrize("program", ["python", "python3"])
def test_modules_that_the_examples_run_exist(program: str) -> None:
    modules = {rest[1] for _, rest in commands_of(program) if rest[:1] == ["-m"]}
    assert {module for module in modules if find_spec(module) is None} == set()


# --- the API


def calls() -> list[tuple[str, list[str]]]:
    return [*commands_of("grpcurl"), *(call for call in commands_of("buf") if call[1][:1] == ["curl"])]


@pytest.mark.parametrize(
    "arguments", [pytest.param(rest, id=f"{where} {rest[-1]}") for where, rest in calls()]
)
def test_api_calls_of_the_examples_name_methods_and_fields(arguments: list[str]) -> None:
    target = arguments[-1]
    if "list" in arguments:
        assert target in ("list", SERVICE.full_name)
        return
    service, _, method_name = target.removeprefix("http://localhost/").partition("/")
    assert service == SERVICE.full_name
    method = SERVICE.methods_by_name[method_name]
    request = message_factory.GetMessageClass(method.input_type)()
    for option, value in pairwise(arguments):
        if option in ("-d", "--data"):
            json_format.ParseDict(json.loads(value), request)


def test_there_are_api_calls_to_check() -> None:
    assert {rest[-1].rpartition("/")[2] for _, rest in calls()} >= {"Update", "WatchStatus", "TailLogs"}


# --- names in the text


def test_tests_that_the_pages_name_exist() -> None:
    defined = {
        match
        for file in (ROOT / "tests").glob("**/test_*.py")
        for match in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    }
    named = {match for page in PAGES for match in re.findall(r"`(test_\w+)`", prose(page))}
    assert named
    assert named - defined == set()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_paths_in_the_text_exist(page: Path) -> None:
    roots = "docs|tests|scripts|examples|benchmarks|protos|client|server"
    paths = re.findall(rf"`((?:{roots})/[\w./-]+)`", prose(page))
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_pages_that_the_code_names_exist() -> None:
    files = [
        file
        for folder in ("server", "client", "protos", "tests", "benchmarks", "scripts", "examples", ".ci")
        for file in (ROOT / folder).glob("**/*")
        if file.is_file() and file.suffix != ".pyc" and file.name != Path(__file__).name
    ]
    dead = [
        f"{file.relative_to(ROOT)}: {page}"
        for file in [*files, ROOT / "Makefile", ROOT / "pyproject.toml"]
        for page in re.findall(r"\bdocs/[\w./-]+\.md\b", file.read_text(encoding="utf-8", errors="replace"))
        if not (ROOT / page).exists()
    ]
    assert dead == []


def test_the_code_map_names_what_is_there() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    server = ROOT / "server" / "hostmanager_server"
    rooms = "commands|daemon|rpc|supervisor|drivers|config|state|linux|core"
    named = re.findall(rf"`((?:{rooms})/[\w./*]*)`", page)
    assert [path for path in named if not list(server.glob(path.rstrip("/")))] == []
    code_map = page.partition("## Code map")[2].partition("## Invariants")[0]
    listed = {room for room in re.findall(r"^  (\w+)/ ", code_map, re.MULTILINE) if (server / room).is_dir()}
    assert listed == {file.parent.name for file in server.glob("*/__init__.py")}
