"""The decorator of dataclasses, without the start-up cost of the standard one.

The module `dataclasses` imports `inspect`, and compiles up to seven methods of each class: a third of the
start of a daemon with its 130 dataclasses, and more than a short command may take. This decorator compiles
`__init__` once a class has several instances, and a function that copies instances once `replace` has copied
some. Type checkers see the standard decorator.

The classes work with `dataclasses.fields`, `dataclasses.replace` and the like.
"""

from __future__ import annotations

from _operator import attrgetter

TYPE_CHECKING = False  # `typing` has a cost, too
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from dataclasses import dataclass, field, replace
    from typing import Any

__all__ = ["dataclass", "field", "replace"]

_MISSING: Any = type("_Missing", (), {"__slots__": (), "__repr__": lambda self: "MISSING"})()
_OWN = "_value_fields_"
_COPY = "_value_copy_"
_COPIES = 32  # of a class, from which on a compiled function saves more than its compilation costs
# A compilation takes as long as dozens of instances without; most classes of a short command have one or two.
_BEFORE_COMPILING = 4


class _Field:
    """A field of a class; the attributes have the names of `dataclasses.Field`."""

    __slots__ = ("compare", "default", "default_factory", "init", "name", "repr", "type")

    def __init__(self, default: Any, default_factory: Any, flags: tuple[bool, bool, bool]) -> None:
        self.name = ""
        self.type: Any = None
        self.default = default
        self.default_factory = default_factory
        self.init, self.repr, self.compare = flags


if not TYPE_CHECKING:

    def field(*, default=_MISSING, default_factory=_MISSING, init=True, repr=True, compare=True):  # noqa: A002 -- the name in dataclasses
        """Describe a field, as `dataclasses.field` does."""
        return _Field(default, default_factory, (init, repr, compare))

    def dataclass(cls=None, /, *, frozen=False, slots=False, eq=True, order=False):
        """Add the methods of a dataclass to a class, as `dataclasses.dataclass` does."""

        def wrap(cls):
            return _process(cls, frozen=frozen, slots=slots, eq=eq, order=order)

        return wrap if cls is None else wrap(cls)

    def replace(obj, /, **changes):
        """Return a copy of an object with changed fields, as `dataclasses.replace` does."""
        copy = getattr(type(obj), _COPY, None)
        if copy is None:
            from dataclasses import replace

            return replace(obj, **changes)
        return copy(obj, **changes)


def _process(cls: type, *, frozen: bool, slots: bool, eq: bool, order: bool) -> type:
    own = _own_fields(cls)
    fields: dict[str, _Field] = {}
    for base in cls.__mro__[-1:0:-1]:
        fields |= vars(base).get(_OWN) or _standard_fields(base)
    fields |= own
    if slots:
        cls = _with_slots(cls, own)
    attributes: dict[str, Any] = {
        _OWN: fields,
        "__dataclass_fields__": _StandardFields(),
        "__match_args__": tuple(each.name for each in fields.values() if each.init),
        "__init__": _first_init(cls),
        _COPY: _first_copies(cls, fields),
        "__repr__": _repr,
        **(_comparisons(fields, frozen=frozen, order=order) if eq else {}),
        **(_frozen_methods(cls) if frozen else {}),
        **({"__getstate__": _getstate, "__setstate__": _setstate} if frozen and slots else {}),
    }
    for name, value in attributes.items():
        if (
            name not in vars(cls)
            or name in (_OWN, _COPY, "__dataclass_fields__")
            or (name == "__hash__" and vars(cls)[name] is None)
        ):
            setattr(cls, name, value)
    return cls


def _own_fields(cls: type) -> dict[str, _Field]:
    fields = {}
    for name, kind in vars(cls).get("__annotations__", {}).items():
        if isinstance(kind, str) and kind.partition("[")[0] in ("ClassVar", "typing.ClassVar"):
            continue
        default = vars(cls).get(name, _MISSING)
        if isinstance(default, _Field):
            found = default
            if found.default is _MISSING:
                delattr(cls, name)
            else:
                setattr(cls, name, found.default)
        else:
            if type(default).__hash__ is None:
                raise ValueError(f"mutable default {type(default)} for field {name} is not allowed")
            found = _Field(default, _MISSING, (True, True, True))
        found.name, found.type = name, kind
        fields[name] = found
    return fields


def _standard_fields(base: type) -> Mapping[str, _Field]:
    """Return the fields of a base class with the standard decorator."""
    if "__dataclass_fields__" not in vars(base):
        return {}
    from dataclasses import MISSING, fields

    found = {}
    for each in fields(base):
        default = _MISSING if each.default is MISSING else each.default
        factory = _MISSING if each.default_factory is MISSING else each.default_factory
        found[each.name] = _Field(default, factory, (each.init, each.repr, bool(each.compare)))
        found[each.name].name, found[each.name].type = each.name, each.type
    return found


def _with_slots(cls: type, own: Mapping[str, _Field]) -> type:
    """Return the class with a slot for each of its own fields; only a new class can get slots."""
    inherited = {slot for base in cls.__mro__[1:] for slot in vars(base).get("__slots__", ())}
    body = {key: value for key, value in vars(cls).items() if key not in own}
    body.pop("__dict__", None)
    body.pop("__weakref__", None)
    body["__slots__"] = tuple(name for name in own if name not in inherited)
    made = type(cls)(cls.__name__, cls.__bases__, body)
    made.__qualname__ = cls.__qualname__
    return made


def _first_init(cls: type) -> Callable[..., None]:
    """Return an `__init__` that serves the first instances, then compiles and installs the final one."""
    left = _BEFORE_COMPILING

    def first_init(*args: Any, **kwargs: Any) -> None:
        nonlocal left
        left -= 1
        if left >= 0 and _initialized(cls, args, kwargs):
            return
        final = _compile_init(cls)
        cls.__init__ = final  # type: ignore[misc]  # of a class that mypy does not know
        final(*args, **kwargs)

    return first_init


def _initialized(cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Set the fields of an instance, the first of `args`; False for arguments or fields with a fault.

    The compiled `__init__` has the words for the fault.
    """
    fields: Mapping[str, _Field] = getattr(cls, _OWN)
    given = dict(zip((each.name for each in fields.values() if each.init), args[1:], strict=False))
    if len(given) < len(args) - 1 or not given.keys().isdisjoint(kwargs):
        return False
    given |= kwargs
    values = {}
    needs_default = False
    for name, each in fields.items():
        has_default = each.default is not _MISSING or each.default_factory is not _MISSING
        if each.init and needs_default and not has_default:
            return False
        needs_default |= each.init and has_default
        if each.init and name in given:
            values[name] = given.pop(name)
        elif has_default:
            values[name] = each.default if each.default_factory is _MISSING else each.default_factory()
        elif each.init:
            return False
    if given:
        return False
    for name, value in values.items():
        object.__setattr__(args[0], name, value)
    if hasattr(cls, "__post_init__"):
        args[0].__post_init__()
    return True


def _compile_init(cls: type) -> Callable[..., None]:
    fields: Mapping[str, _Field] = getattr(cls, _OWN)
    names: dict[str, Any] = {"_missing": _MISSING}
    parameters, lines = [], []
    needs_default = ""
    for n, each in enumerate(fields.values()):
        value = each.name
        if each.default_factory is not _MISSING:
            names[f"_factory{n}"] = each.default_factory
            value = f"_factory{n}()"
            if each.init:
                parameters.append(f"{each.name}=_missing")
                value = f"{value} if {each.name} is _missing else {each.name}"
        elif each.default is not _MISSING:
            names[f"_default{n}"] = each.default
            if each.init:
                parameters.append(f"{each.name}=_default{n}")
            else:
                value = f"_default{n}"
        elif not each.init:
            continue
        elif needs_default:
            raise TypeError(f"non-default argument {each.name!r} follows default argument")
        else:
            parameters.append(each.name)
        if each.init and parameters[-1] != each.name:
            needs_default = each.name
        lines.append(_assignment(cls, each.name, value, n, names))
    if hasattr(cls, "__post_init__"):
        lines.append(" _self.__post_init__()")
    source = "\n".join([f"def __init__({', '.join(['_self', *parameters])}):", *(lines or [" pass"])])
    exec(source, names)  # noqa: S102 -- the names come from the annotations of a class
    init: Callable[..., None] = names["__init__"]
    init.__qualname__ = f"{cls.__qualname__}.__init__"
    init.__module__ = cls.__module__
    init.__annotations__ = {each.name: each.type for each in fields.values() if each.init}
    return init


def _first_copies(cls: type, fields: Mapping[str, _Field]) -> Callable[..., Any]:
    """Return a function that copies instances, and installs a compiled one after some calls."""
    copies = 0

    def copy(obj: Any, /, **changes: Any) -> Any:
        nonlocal copies
        copies += 1
        if copies == _COPIES and _is_plain(cls):
            setattr(cls, _COPY, _compile_copy(cls))
        for each in fields.values():
            if not each.init:
                if each.name in changes:
                    raise ValueError(
                        f"field {each.name} is declared with init=False; replace() cannot set it"
                    )
            elif each.name not in changes:
                changes[each.name] = getattr(obj, each.name)
        return cls(**changes)

    return copy


def _is_plain(cls: type) -> bool:
    """Return whether `__init__` does nothing but set a slot for each field."""
    fields: Mapping[str, _Field] = getattr(cls, _OWN)
    return not hasattr(cls, "__post_init__") and all(
        each.init and type(getattr(cls, each.name, None)) is _SLOT for each in fields.values()
    )


def _compile_copy(cls: type) -> Callable[..., Any]:
    """Return a function that sets the slots of a copy directly, which spares the call of `__init__`."""
    names: dict[str, Any] = {"_missing": _MISSING, "_new": object.__new__, "_cls": cls}
    fields = list(getattr(cls, _OWN))
    lines = []
    for n, name in enumerate(fields):
        names[f"_set{n}"] = getattr(cls, name).__set__
        lines.append(f" _set{n}(_copy, _obj.{name} if {name} is _missing else {name})")
    parameters = "".join(f", {name}=_missing" for name in fields)
    head = [f"def copy(_obj, /{', *' if fields else ''}{parameters}):", " _copy = _new(_cls)"]
    exec("\n".join([*head, *lines, " return _copy"]), names)  # noqa: S102 -- the names come from annotations
    copy: Callable[..., Any] = names["copy"]
    return copy


def _assignment(cls: type, name: str, value: str, n: int, names: dict[str, Any]) -> str:
    """Return the line that sets a field; frozen classes refuse plain assignments."""
    if cls.__setattr__ is object.__setattr__:
        return f" _self.{name} = {value}"
    slot = getattr(cls, name, None)
    if type(slot) is _SLOT:
        names[f"_set{n}"] = slot.__set__
        return f" _set{n}(_self, {value})"
    names["_set"] = object.__setattr__
    return f" _set(_self, {name!r}, {value})"


_SLOT = type(_Field.name)


def _comparisons(fields: Mapping[str, _Field], *, frozen: bool, order: bool) -> dict[str, Any]:
    compared = [each.name for each in fields.values() if each.compare]
    if compared:
        values: Callable[[Any], Any] = attrgetter(*compared)
    else:

        def values(instance: Any) -> Any:
            return ()

    def equal(self: Any, other: Any) -> Any:
        return values(self) == values(other) if other.__class__ is self.__class__ else NotImplemented

    def hashed(self: Any) -> int:
        return hash(values(self))

    def less(self: Any, other: Any) -> Any:
        return values(self) < values(other) if other.__class__ is self.__class__ else NotImplemented

    def less_or_equal(self: Any, other: Any) -> Any:
        return values(self) <= values(other) if other.__class__ is self.__class__ else NotImplemented

    def greater(self: Any, other: Any) -> Any:
        return values(self) > values(other) if other.__class__ is self.__class__ else NotImplemented

    def greater_or_equal(self: Any, other: Any) -> Any:
        return values(self) >= values(other) if other.__class__ is self.__class__ else NotImplemented

    methods: dict[str, Any] = {"__eq__": equal, "__hash__": hashed if frozen else None}
    if order:
        methods |= {"__lt__": less, "__le__": less_or_equal, "__gt__": greater, "__ge__": greater_or_equal}
    return methods


def _frozen_methods(cls: type) -> dict[str, Any]:
    def set_attribute(self: Any, name: str, value: Any) -> None:
        if type(self) is cls or name in getattr(cls, _OWN):
            from dataclasses import FrozenInstanceError

            raise FrozenInstanceError(f"cannot assign to field {name!r}")
        super(cls, self).__setattr__(name, value)

    def delete_attribute(self: Any, name: str) -> None:
        if type(self) is cls or name in getattr(cls, _OWN):
            from dataclasses import FrozenInstanceError

            raise FrozenInstanceError(f"cannot delete field {name!r}")
        super(cls, self).__delattr__(name)

    return {"__setattr__": set_attribute, "__delattr__": delete_attribute}


def _repr(self: Any) -> str:
    parts = [
        f"{each.name}={getattr(self, each.name)!r}" for each in getattr(self, _OWN).values() if each.repr
    ]
    return f"{type(self).__qualname__}({', '.join(parts)})"


def _getstate(self: Any) -> list[Any]:
    return [getattr(self, name) for name in getattr(self, _OWN)]


def _setstate(self: Any, state: list[Any]) -> None:
    for name, value in zip(getattr(self, _OWN), state, strict=True):
        object.__setattr__(self, name, value)


class _StandardFields:
    """The attribute `__dataclass_fields__`, made by the module `dataclasses` at the first use."""

    def __get__(self, instance: Any, cls: type) -> Any:
        import dataclasses

        def standard(each: _Field) -> Any:
            options: dict[str, Any] = {"init": each.init, "repr": each.repr, "compare": each.compare}
            if each.default is not _MISSING:
                options["default"] = each.default
            if each.default_factory is not _MISSING:
                options["default_factory"] = each.default_factory
            return dataclasses.field(**options)

        own: Mapping[str, _Field] = getattr(cls, _OWN)
        fields = [(each.name, each.type, standard(each)) for each in own.values()]
        made = dataclasses.make_dataclass(cls.__name__, fields)
        standard_fields = made.__dataclass_fields__
        if _OWN in vars(cls):
            cls.__dataclass_fields__ = standard_fields  # type: ignore[attr-defined]  # of any class
        return standard_fields
