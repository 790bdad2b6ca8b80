"""The light decorator of dataclasses against the standard one."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
from typing import Any

import pytest
from hostmanager import values

FROZEN: dict[str, Any] = {"frozen": True, "slots": True}
PLAIN: dict[str, Any] = {"slots": True, "eq": False}
ORDERED: dict[str, Any] = {**FROZEN, "order": True}


def make(module: Any, base: type = object, **options: Any) -> Any:
    """Return the same class by the decorator of a module."""

    class Sample(base):  # type: ignore[misc]  # a base made at run time
        """A sample."""

        a: int
        b: str = "b"
        c: dict[str, int] = module.field(default_factory=dict)
        d: float = module.field(default=1.5, repr=False, compare=False)
        e: list[int] = module.field(init=False, default_factory=list)

        def __post_init__(self) -> None:
            self.e.append(self.a)

        @property
        def double(self) -> int:
            return self.a * 2

    return module.dataclass(**options)(Sample)


@values.dataclass(frozen=True, slots=True)
class Known:
    """A class that pickle can find."""

    a: int
    b: tuple[str, ...] = ()


def instances_before(count: int, cls: Any) -> Any:
    """Return the class after that many instances; the decorator treats the first ones differently."""
    for number in range(count):
        cls(number, b="x")
    return cls


@pytest.mark.parametrize("before", [0, 10])
@pytest.mark.parametrize("options", [FROZEN, PLAIN, ORDERED, {}, {"frozen": True}], ids=str)
def test_a_class_behaves_as_with_the_standard_decorator(options: dict[str, Any], before: int) -> None:
    ours, standard = instances_before(before, make(values, **options)), make(dataclasses, **options)
    for cls in (ours, standard):
        cls.__qualname__ = "Sample"
    one, other = ours(1, d=2.5), standard(1, d=2.5)
    assert repr(one) == repr(other)
    assert dataclasses.asdict(one) == dataclasses.asdict(other)
    assert one.double == 2
    assert (one == ours(1)) == (other == standard(1))
    assert one != other
    assert hasattr(one, "__dict__") == hasattr(other, "__dict__")
    assert (ours.__hash__ is None) == (standard.__hash__ is None)
    assert ours.__match_args__ == standard.__match_args__
    assert [(f.name, f.init, f.repr, f.compare) for f in dataclasses.fields(ours)] == [
        (f.name, f.init, f.repr, f.compare) for f in dataclasses.fields(standard)
    ]
    assert values.replace(one, a=3).e == dataclasses.replace(one, a=3).e == [3]
    assert one.c is not ours(1).c, "each instance gets its own default"


@pytest.mark.parametrize("before", [0, 10])
@pytest.mark.parametrize(
    ("arguments", "names", "says"),
    [
        ((), {}, "missing 1 required positional argument: 'a'"),
        ((1, "b", {}, 2.0, 5), {}, "takes from 2 to 5 positional arguments but 6 were given"),
        ((1,), {"a": 2}, "multiple values for argument 'a'"),
        ((1,), {"e": []}, "unexpected keyword argument 'e'"),
        ((1,), {"unknown": 0}, "unexpected keyword argument 'unknown'"),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: tuple[Any, ...], names: dict[str, Any], says: str, before: int
) -> None:
    cls = instances_before(before, make(values, **FROZEN))
    with pytest.raises(TypeError, match=says):
        cls(*arguments, **names)


def test_a_frozen_value_refuses_changes_and_keeps_them_in_copies() -> None:
    value = Known(1, ("x",))
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'a'"):
        value.a = 2  # type: ignore[misc]  # must fail
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot delete field 'a'"):
        del value.a
    with pytest.raises((AttributeError, TypeError)):
        value.unknown = 2  # type: ignore[attr-defined]  # must fail
    for twin in (pickle.loads(pickle.dumps(value)), copy.copy(value), copy.deepcopy(value)):
        assert twin == value
        assert hash(twin) == hash(value)


def test_an_init_only_field_cannot_be_replaced() -> None:
    with pytest.raises(ValueError, match="init=False"):
        values.replace(make(values)(1), e=[])


@pytest.mark.parametrize("module", [values, dataclasses])
def test_copies_stay_the_same_when_a_class_is_copied_often(module: Any) -> None:
    class Fields:
        """Only fields that every instance gets from its constructor."""

        a: int
        b: str = "b"
        c: Any = None

    often: Any = module.dataclass(frozen=True, slots=True)(Fields)
    value = often(1)
    for number in range(100):
        changed = values.replace(value, a=number, c=None)
        assert (changed.a, changed.b, changed.c) == (number, "b", None)
        assert type(changed) is often
        assert (value.a, value.c) == (1, None)
    assert values.replace(value) == value
    with pytest.raises(TypeError, match="unknown"):
        values.replace(value, unknown=1)


def test_a_class_with_more_fields_is_copied_with_them() -> None:
    @values.dataclass(frozen=True, slots=True)
    class Base:
        """A class that is copied often."""

        a: int

    for _ in range(100):
        values.replace(Base(1), a=2)

    @values.dataclass(frozen=True, slots=True)
    class Derived(Base):
        """A class with one more field."""

        b: int = 3

    copied = [values.replace(Derived(1), a=2) for _ in range(100)]
    assert set(copied) == {Derived(2, 3)}


def test_values_have_an_order_on_demand() -> None:
    cls = make(values, **ORDERED)
    assert cls(1, "a") < cls(1, "b") <= cls(1, "b")
    assert cls(2, "a") > cls(1, "b") >= cls(1, "b")
    with pytest.raises(TypeError):
        _ = make(values, **FROZEN)(1) < make(values, **FROZEN)(2)


@pytest.mark.parametrize("module", [values, dataclasses])
def test_fields_are_inherited_from_both_kinds_of_classes(module: Any) -> None:
    @values.dataclass(frozen=True, slots=True)
    class Derived(make(module, **FROZEN)):  # type: ignore[misc]  # a base made at run time
        """A class with one more field."""

        f: int = 7

    value: Any = Derived(1, f=8)
    assert (value.a, value.e, value.f) == (1, [1], 8)
    assert values.replace(value, b="c") == Derived(1, "c", f=8)
    assert [f.name for f in dataclasses.fields(Derived)] == ["a", "b", "c", "d", "e", "f"]


def test_mutable_defaults_and_misplaced_fields_are_refused() -> None:
    with pytest.raises(ValueError, match="mutable default"):
        values.dataclass(type("Bad", (), {"__annotations__": {"a": "list"}, "a": []}))
    bad: Any = values.dataclass(type("Bad", (), {"__annotations__": {"a": "int", "b": "int"}, "a": 1}))
    with pytest.raises(TypeError, match="non-default argument 'b'"):
        bad(1, 2)


def test_the_decorator_does_without_expensive_modules() -> None:
    program = (
        "import sys; from hostmanager.values import dataclass\n"
        "@dataclass(frozen=True, slots=True)\nclass A:\n    a: int = 0\n"
        "assert A(1) == A(1) != A(); repr(A()); hash(A())\n"
        "print({'dataclasses', 'inspect', 'typing', 're'} & sys.modules.keys())"
    )
    code = [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{program}"]
    assert subprocess.run(code, capture_output=True, text=True, check=True).stdout == "set()\n"
