"""Requests checked against the service model: one table-driven validator, compiled at start from the model that botocore carries.

Each shape becomes a closure `check(value, path, faults) -> value`: a JSON value of the wrong kind raises at once
(SerializationException, as AWS's parser comes before its checks); a constraint that does not hold is added to `faults`, and all
of them are reported together (ValidationException). What the model does not name is dropped, and null is the same as absent.

Values are echoed as AWS does, cut at 256 characters; never those of blobs, of members marked sensitive, and of grant tokens,
which admit to a key. The order of an enum's values and of several faults is not fixed by AWS: here it is the model's.

Source: botocore/data/kms/*/service-2.json; the messages as recorded from AWS for services of the same protocol and framework.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import botocore.loaders

from proxy.errors import KmsError

#: Any: a JSON value going in, and the same with blobs decoded coming out.
Check: TypeAlias = Callable[[Any, str, list[str]], Any]
#: A shape or operation of the model; Any, because its description is JSON.
Shape: TypeAlias = Mapping[str, Any]

MAX_CONTEXT_BYTES = 8192  # KMS developer guide, "Encryption context": keys and values together
_ECHO_LIMIT = 256
_MAX_TIME_S = 253_402_300_799  # the year 9999
_UNLIMITED = 1 << 62
_SECRET_SHAPES = frozenset({"GrantTokenType"})
_CONTEXT_SHAPE = "EncryptionContextType"
_KINDS = {int: "NUMBER_VALUE", float: "NUMBER_VALUE", str: "STRING_VALUE"}


class ServiceModel:
    """The operations of KMS and the shapes of their requests. Immutable after construction."""

    def __init__(self, description: Shape) -> None:
        compiler = _Compiler(description["shapes"])
        self._checks: dict[str, Check] = {}
        for name, operation in description["operations"].items():
            self._checks[name] = compiler.compile(operation["input"]["shape"]) if "input" in operation else _no_members

    @classmethod
    def load(cls) -> ServiceModel:
        """The model that the installed botocore carries. Reads a file: once, at start."""
        return cls(botocore.loaders.create_loader().load_service_model("kms", "service-2"))

    def validate(self, operation_name: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """The members of a request that the model knows, blobs decoded to bytes.

        Raises SerializationException, ValidationException, or UnknownOperationException.
        """
        members, faults = self.read(operation_name, document)
        if faults:
            raise validation_error(faults)
        return members

    def read(self, operation_name: str, document: Mapping[str, Any]) -> tuple[dict[str, Any], Sequence[str]]:
        """The members of a request that the model knows, blobs decoded to bytes, and the constraints that do not hold.

        Raises SerializationException or UnknownOperationException.
        """
        check = self._checks.get(operation_name)
        if check is None:
            raise KmsError("UnknownOperationException")
        faults: list[str] = []
        members: dict[str, Any] = check(document, "", faults)
        return members, faults


def validation_error(faults: Sequence[str]) -> KmsError:
    """What AWS answers where constraints do not hold."""
    noun = "error" if len(faults) == 1 else "errors"
    return KmsError("ValidationException", f"{len(faults)} validation {noun} detected: {'; '.join(faults)}")


def _no_members(value: Any, path: str, faults: list[str]) -> dict[str, Any]:
    return {}


def _lower_camel(name: str) -> str:
    return name[:1].lower() + name[1:]


def _mismatch(value: Any, expected: str) -> KmsError:
    """AWS's words for a JSON value of the wrong kind; `expected` is what follows the kind, or the words for any scalar."""
    if type(value) is list:
        return KmsError("SerializationException", "Start of list found where not expected")
    if isinstance(value, dict):
        return KmsError(
            "SerializationException",
            "Start of structure or map found where not expected.",
        )
    if expected.startswith("Expected"):
        return KmsError("SerializationException", expected)
    kind = f"{value}_VALUE".upper() if type(value) is bool else _KINDS[type(value)]
    return KmsError("SerializationException", f"{kind} can not be converted to {expected}")


def _echo(value: Any, shown: bool) -> str:
    """The words `Value 'x'` with their blank, or `Value` alone where the value is not to be told."""
    if not shown:
        return "Value"
    text = f"[{', '.join(value)}]" if type(value) is list else str(value)
    return f"Value '{text[:_ECHO_LIMIT]}…'" if len(text) > _ECHO_LIMIT else f"Value '{text}'"


def _fault(value: Any, shown: bool, path: str, constraint: str) -> str:
    return f"{_echo(value, shown)} at '{path}' failed to satisfy constraint: {constraint}"


def _at_most(what: str, limit: int) -> str:
    return f"Member must have {what} less than or equal to {limit}"


def _at_least(what: str, limit: int) -> str:
    return f"Member must have {what} greater than or equal to {limit}"


class _Compiler:
    """Compiles each shape once. The model's request shapes do not refer to themselves."""

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        self._shapes = shapes
        self._done: dict[str, Check] = {}

    def compile(self, name: str) -> Check:
        check = self._done.get(name)
        if check is None:
            shape = self._shapes[name]
            check = self._done[name] = self._build(name, shape)
        return check

    def _build(self, name: str, shape: Shape) -> Check:
        match shape["type"]:
            case "structure":
                members = {m: (_lower_camel(m), self.compile(ref["shape"])) for m, ref in shape["members"].items()}
                return _structure(members, shape.get("required", ()))
            case "list":
                element = shape["member"]["shape"]
                return _list(shape, element, self._shapes[element], self.compile(element))
            case "map" if name == _CONTEXT_SHAPE:
                return _encryption_context()
            case "string":
                return _string(shape, shown=_is_shown(name, shape))
            case "blob":
                return _blob(shape)
            case "integer" | "long":
                return _integer(shape)
            case "boolean":
                return _boolean
            case "timestamp":
                return _timestamp
            case other:
                raise NotImplementedError(f"the service model's shape {name} is a {other}")


def _is_shown(name: str, shape: Shape) -> bool:
    return not shape.get("sensitive", False) and name not in _SECRET_SHAPES


def _structure(members: Mapping[str, tuple[str, Check]], required: Sequence[str]) -> Check:
    find = members.get

    def check(value: Any, path: str, faults: list[str]) -> dict[str, Any]:
        if type(value) is not dict:
            raise _mismatch(value, "Expected null")
        result: dict[str, Any] = {}
        for name, item in value.items():
            member = find(name)
            if member is not None and item is not None:
                result[name] = member[1](item, f"{path}.{member[0]}" if path else member[0], faults)
        for name in required:
            if name not in result:
                missing = f"{path}.{members[name][0]}" if path else members[name][0]
                faults.append(f"Value null at '{missing}' failed to satisfy constraint: Member must not be null")
        return result

    return check


def _list(shape: Shape, element: str, member_shape: Shape, member: Check) -> Check:
    low, high = shape.get("min", 0), shape.get("max", _UNLIMITED)
    scalar = member_shape["type"] == "string"
    shown = scalar and _is_shown(element, member_shape)
    element_rule = f"Member must satisfy constraint: [{', '.join(_string_rules(member_shape))}]" if scalar else ""

    def check(value: Any, path: str, faults: list[str]) -> list[Any]:
        if type(value) is not list:
            raise _mismatch(value, "Expected list or null")
        items = [item for item in value if item is not None]
        inner: list[str] = [] if scalar else faults
        result = [member(item, f"{path}.{number}.member", inner) for number, item in enumerate(items, 1)]
        if scalar and inner:  # AWS reports a list of strings as a whole, a list of structures member by member
            faults.append(_fault(items, shown, path, element_rule))
        if len(items) > high:
            faults.append(_fault(items, shown, path, _at_most("length", high)))
        if len(items) < low:
            faults.append(_fault(items, shown, path, _at_least("length", low)))
        return result

    return check


def _encryption_context() -> Check:
    # AWS answers a context that it does not take with these two words and no more; the limit's own answer is not documented.
    refused = "Invalid EncryptionContext"

    def check(value: Any, path: str, faults: list[str]) -> dict[str, str]:
        if type(value) is not dict:
            raise _mismatch(value, "Expected map or null")
        length = 0
        for key, item in value.items():
            if type(item) is not str:
                if item is None:
                    raise KmsError("ValidationException", refused)
                raise _mismatch(item, "a String")
            if not key:
                raise KmsError("ValidationException", refused)
            length += len(key) + len(item)
        # UTF-8 takes at most four bytes a character, so most contexts need no encoding to be measured
        if length * 4 > MAX_CONTEXT_BYTES and _size_bytes(value) > MAX_CONTEXT_BYTES:
            raise KmsError("ValidationException", refused)
        return dict(value)

    return check


def _size_bytes(context: Mapping[str, str]) -> int:
    return sum(len(key.encode()) + len(item.encode()) for key, item in context.items())


def _string_rules(shape: Shape) -> list[str]:
    """The constraints of a string in words, in the order in which AWS lists them."""
    rules = [_at_most("length", shape["max"])] if "max" in shape else []
    if "min" in shape:
        rules.append(_at_least("length", shape["min"]))
    if "pattern" in shape:
        rules.append(f"Member must satisfy regular expression pattern: {shape['pattern']}")
    if "enum" in shape:
        rules.append(f"Member must satisfy enum value set: [{', '.join(shape['enum'])}]")
    return rules


def _with_classes(pattern: str) -> str:
    """Java's Unicode classes, as STS's patterns have them within brackets: letters, separators, numbers. Beyond ASCII every
    character is taken for one of them."""
    for name, characters in ((r"\p{L}", "A-Za-z"), (r"\p{Z}", " "), (r"\p{N}", "0-9")):
        pattern = pattern.replace(name, characters + "\u0080-\U0010ffff")
    return pattern


def _string(shape: Shape, *, shown: bool) -> Check:
    low, high = shape.get("min", 0), shape.get("max", _UNLIMITED)
    values = frozenset(shape["enum"]) if "enum" in shape else None
    # Java's `matches`: the whole text, and \w, \d, \s are ASCII
    matches = re.compile(_with_classes(shape["pattern"]), re.ASCII).fullmatch if "pattern" in shape else None
    enum_rule = pattern_rule = ""
    for rule in _string_rules(shape):
        if "enum" in rule:
            enum_rule = rule
        elif "pattern" in rule:
            pattern_rule = rule

    def check(value: Any, path: str, faults: list[str]) -> str:
        if type(value) is not str:
            raise _mismatch(value, "a String")
        if values is not None:
            if value not in values:
                faults.append(_fault(value, shown, path, enum_rule))
            return value
        length = len(value)
        # a text that is too long is not matched: the pattern's cost stays bounded
        if matches is not None and length <= high and not matches(value):
            faults.append(_fault(value, shown, path, pattern_rule))
        if length > high:
            faults.append(_fault(value, shown, path, _at_most("length", high)))
        if length < low:
            faults.append(_fault(value, shown, path, _at_least("length", low)))
        return value

    return check


def _blob(shape: Shape) -> Check:
    low, high = shape.get("min", 0), shape.get("max", _UNLIMITED)

    def check(value: Any, path: str, faults: list[str]) -> bytes:
        if type(value) is not str:
            raise _mismatch(value, "a Blob")
        try:
            content = binascii.a2b_base64(value, strict_mode=True)
        except ValueError:  # binascii.Error, or not ASCII; AWS's words would echo the value
            raise KmsError("SerializationException", "STRING_VALUE can not be converted to a Blob") from None
        if not low <= len(content) <= high:
            rule = _at_most("length", high) if len(content) > high else _at_least("length", low)
            faults.append(_fault(None, False, path, rule))
        return content

    return check


def _integer(shape: Shape) -> Check:
    low, high = shape.get("min", -(1 << 31)), shape.get("max", (1 << 31) - 1)

    def check(value: Any, path: str, faults: list[str]) -> int:
        if type(value) is not int and type(value) is not float:
            raise _mismatch(value, "an Integer")
        number = int(value)  # AWS cuts a fraction off
        if number > high:
            faults.append(_fault(number, True, path, _at_most("value", high)))
        if number < low:
            faults.append(_fault(number, True, path, _at_least("value", low)))
        return number

    return check


def _boolean(value: Any, path: str, faults: list[str]) -> bool:
    if type(value) is not bool:
        raise _mismatch(value, "an Boolean")  # AWS's grammar
    return value


def _timestamp(value: Any, path: str, faults: list[str]) -> float:
    """Seconds since the epoch."""
    if (type(value) is not int and type(value) is not float) or not 0 <= value <= _MAX_TIME_S:
        raise _mismatch(value, "a Timestamp")
    return float(value)
