"""Write the fields and enums of the contract as plain tables, next to the stubs.

    generate_tables.py DIRECTORY     DIRECTORY has the stubs; `scripts/generate-stubs` calls this program

The command line reads answers with these tables, because the import of protobuf takes longer than the call.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

OPENING = '''"""Fields and enums of the contract, generated from host_manager.proto; DO NOT EDIT.

A field: number, name, kind (of a scalar, "enum" or "message"), type name of an enum or a message,
label ("": no presence, "?": presence, "*": repeated, "%": map), oneof or "".
"""
'''
KINDS = {1: "double", 3: "int64", 5: "int32", 8: "bool", 9: "string", 11: "message", 12: "bytes", 14: "enum"}


def messages(container: Any) -> Iterator[Any]:
    """Yield the messages of a file or a message, nested ones included."""
    for message in container:
        yield message
        yield from messages(message.nested_types)


def row(field: Any) -> tuple[int, str, str, str, str, str]:
    kind = KINDS[field.type]  # a KeyError: the decoder of the client does not know this kind
    named = field.enum_type or field.message_type
    oneof = field.containing_oneof
    if field.is_repeated:
        label = "%" if named is not None and kind == "message" and named.GetOptions().map_entry else "*"
    else:
        label = "?" if field.has_presence else ""
    real = oneof is not None and not oneof.name.startswith("_")
    return (
        field.number,
        field.name,
        kind,
        named.full_name if named else "",
        label,
        oneof.name if real else "",
    )


def main() -> None:
    out = Path(sys.argv[1])
    sys.path.insert(0, str(out))
    descriptor = import_module("hostmanager.v1.host_manager_pb2").DESCRIPTOR
    found = list(messages(descriptor.message_types_by_name.values()))
    found += [m for m in imported(found) if m not in found]
    lines = [OPENING, "MESSAGES = {"]
    for message in sorted(found, key=lambda m: m.full_name):
        lines += [
            f'    "{message.full_name}": (',
            *(f"        {row(f)!r}," for f in message.fields),
            "    ),",
        ]
    lines += ["}", "", "ENUMS = {"]
    enums = [*descriptor.enum_types_by_name.values(), *(e for m in found for e in m.enum_types)]
    for enum in sorted(enums, key=lambda e: e.full_name):
        lines += [
            f'    "{enum.full_name}": {{',
            *(f"        {v.number}: {v.name!r}," for v in enum.values),
            "    },",
        ]
    path = out / "hostmanager" / "v1" / "host_manager_tables.py"
    path.write_text("\n".join([*lines, "}", ""]))


def imported(found: list[Any]) -> list[Any]:
    """Return the messages of other files that fields refer to."""
    others = {f.message_type.full_name: f.message_type for m in found for f in m.fields if f.message_type}
    return [message for message in others.values() if message.file.name.startswith("google/protobuf/")]


if __name__ == "__main__":
    main()
