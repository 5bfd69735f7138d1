"""Message classes of protobuf, made from tables of the fields that a reader uses: fields that no table names are skipped by it.

The library is an extra; nothing here is known of the programs whose messages these are.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Final

from matyan.errors import ConfigurationError

Fields = Mapping[str, tuple[int, str]]
"""Name → number and type: one of _TYPES, or the name of another message; with "*" behind it, repeated. "map:TYPE" is a map from texts."""

_TYPES: Final = {
    "double": 1,
    "float": 2,
    "int64": 3,
    "int32": 5,
    "bool": 8,
    "string": 9,
    "bytes": 12,
}
"""Their numbers in descriptor.proto."""


def missing(extra: str, package: str) -> ConfigurationError:
    return ConfigurationError(
        f"These files cannot be read without the package {package}: install it with `pip install 'matyan-trio[{extra}]'`."
    )


def messages(extra: str, package: str, schema: Mapping[str, Fields]) -> Any:
    """An object with a class for each message of the schema.

    extra: of this package, which brings the library.

    Raises:
        ConfigurationError: the library is not installed.
    """
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError:
        raise missing(extra, "protobuf") from None
    file = descriptor_pb2.FileDescriptorProto(
        name=f"matyan/{package}.proto", package=f"matyan.{package}", syntax="proto3"
    )
    for name, fields in schema.items():
        made = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            _field(made, package, field, number, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = {
        name: message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"matyan.{package}.{name}")
        )
        for name in schema
    }
    return SimpleNamespace(**found)


def _field(made: Any, package: str, field: str, number: int, kind: str) -> None:
    word = kind.rstrip("*")
    one = made.field.add(name=field, number=number, label=3 if kind.endswith("*") else 1)
    if word.startswith("map:"):
        entry = made.nested_type.add(name=f"{field.capitalize()}Entry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, label=1, type=_TYPES["string"])
        _field(entry, package, "value", 2, word.removeprefix("map:"))
        one.label, one.type = 3, 11
        one.type_name = f".matyan.{package}.{made.name}.{entry.name}"
    elif word in _TYPES:
        one.type = _TYPES[word]
        if one.label == 1:
            # Whether a field was given tells the members of a oneof apart.
            one.proto3_optional = True
            one.oneof_index = len(made.oneof_decl)
            made.oneof_decl.add(name=f"_{field}")
    else:
        one.type = 11
        one.type_name = f".matyan.{package}.{word}"
