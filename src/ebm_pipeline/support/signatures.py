"""Whether the values of a configuration are of the types that a signature asks for: what Python itself never checks.

A configuration brings plain values (numbers, texts, lists, mappings) and nodes with a `_target_`, which become objects. Plain
values are checked before the call that gets them, objects as the fields of what was made.
"""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from ebm_pipeline.support.errors import UserError

CALLABLE: Any = Callable
PLAIN = (bool, int, float, str, list, dict, type(None))
WORDS = {
    bool: "true or false", int: "a whole number", float: "a finite number", str: "a text", type(None): "null",
    Mapping: "a mapping", dict: "a mapping",
}  # fmt: skip


def fits(value: Any, kind: Any) -> bool:
    """Whether `value`, plain or an object, is of the annotated `kind`; what cannot be told counts as fitting."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any or kind is inspect.Parameter.empty or (isinstance(value, Mapping) and "_target_" in value):
        return True
    if origin in (Union, types.UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is Annotated:
        return fits(value, arguments[0])
    if origin is Literal:
        return value in arguments
    if kind is None or kind is type(None):
        return value is None
    if kind in (bool, int, str):
        return type(value) is kind
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    base = origin or kind
    if not isinstance(base, type):
        return True
    if base is CALLABLE:
        return callable(value)
    if issubclass(base, Mapping):
        return isinstance(value, Mapping) and all(fits(own, arguments[-1]) for own in value.values() if arguments)
    if issubclass(base, Iterable) and base.__module__ in (
        "builtins",
        "collections.abc",
    ):  # no tensor, which iterates too
        if not isinstance(value, Sequence) or isinstance(value, str):  # OmegaConf has lists of its own
            return False
        if issubclass(base, tuple) and arguments[-1:] != (...,):
            return not arguments or (len(value) == len(arguments) and all(map(fits, value, arguments)))
        return all(fits(own, arguments[0]) for own in value if arguments)
    if getattr(base, "_is_protocol", False) and not getattr(base, "_is_runtime_protocol", False):
        return not isinstance(value, PLAIN)
    return isinstance(value, base)


def words(kind: Any) -> str:
    """An annotation in words."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(words, arguments)))
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    base = origin or kind
    if base in WORDS:
        return WORDS[base]
    if isinstance(base, type) and issubclass(base, Mapping):
        return "a mapping"
    if isinstance(base, type) and issubclass(base, Iterable):
        return f"a list (of {words(arguments[0])})" if arguments else "a list"
    name = getattr(base, "__name__", str(base))
    return f"a{'n' if name[0] in 'AEIOU' else ''} {name}"


def check_kind(name: str, value: Any, kind: Any) -> None:
    """Raise UserError unless `value` is of the annotated `kind`."""
    if not fits(value, kind):
        came = repr(value) if isinstance(value, PLAIN) else f"a {type(value).__name__}"
        quotes = fits(value, float) and fits("", kind) and not fits(1, kind)
        hint = "; a number that is meant as text needs quotes of its own, '\"7\"'" if quotes else ""
        raise UserError(f"{name} must be {words(kind)}; got {came[:200]}{hint}")


def check_arguments(target: Callable[..., Any], arguments: Mapping[str, Any], where: str) -> None:
    """Raise UserError unless the plain values among `arguments` are what `target` is annotated to take."""
    if isinstance(target, type) and not is_dataclass(target):
        target = target.__init__  # type: ignore[misc]
    hints = _hints(target)
    for name, value in arguments.items():
        if name in hints:
            check_kind(f"{where}.{name}", value, hints[name])


def check_fields(value: Any, where: str) -> None:
    """Raise UserError unless a dataclass and the dataclasses within it have fields of the annotated types."""
    if isinstance(value, Mapping):
        for key, own in value.items():
            check_fields(own, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, own in enumerate(value):
            check_fields(own, f"{where}.{index}")
    elif is_dataclass(value) and not isinstance(value, type):
        hints = _hints(type(value))
        for field in fields(value):
            check_kind(f"{where}.{field.name}", getattr(value, field.name), hints.get(field.name, Any))
            check_fields(getattr(value, field.name), f"{where}.{field.name}")


def _hints(target: Any) -> dict[str, Any]:
    try:
        return get_type_hints(target)
    except (NameError, TypeError, AttributeError):  # an annotation that only a type checker can read
        return {}
