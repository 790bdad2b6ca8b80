"""Tests of the problems about variables without a value."""

from __future__ import annotations

from pathlib import Path

from hostmanager_server.core.event_log import Severity
from hostmanager_server.drivers.compose.files.unset_variables import error_of, warnings_of


def test_an_unset_variable_has_its_place_and_a_remedy(tmp_path: Path) -> None:
    file, included = tmp_path / "compose.yaml", tmp_path / "more.yaml"
    file.write_text("include: [more.yaml]\nservices:\n  a:\n    image: $$X ${XY} é ${X}\n")
    included.write_text("services: {b: {image: '$OTHER'}}\n")
    (x, other, nowhere) = warnings_of(("X", "OTHER", "Z"), [str(file)], environ={})
    assert (x.severity, x.file, x.line, x.column) == (Severity.WARNING, str(file), 4, 24)
    assert f"set X in {tmp_path / '.env'} or in the environment of the daemon" in x.message
    assert (other.file, other.line) == (str(included), 1)
    assert (nowhere.file, nowhere.line) == (str(file), 0)


def test_the_error_about_a_required_variable_has_its_place(tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text("services:\n  a:\n    image: ${X:?say which}\n")
    text = "error while interpolating services.a.image: required variable X is missing a value: say which"
    problem = error_of(text, [str(file)], environ={})
    assert (problem.severity, problem.line) == (Severity.ERROR, 3)
    assert problem.message.startswith(f"{text}; set X in ")
    assert error_of("no such key", [str(file)], environ={}).line == 0
