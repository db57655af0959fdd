"""The EC2 query protocol by the service's own model: forms to parameters, results to XML."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any
from xml.sax.saxutils import escape

import botocore.session
from botocore.model import ListShape, OperationModel, ServiceModel, Shape, StructureShape

from tests.fakes.protocol import Refused

_COMMON = ("Action", "Version")


@cache
def _model() -> ServiceModel:
    return botocore.session.Session().get_service_model("ec2")


def operation_model(name: str) -> OperationModel:
    """The call of that name; Refused when EC2 has none."""
    if name not in _model().operation_names:
        raise Refused(400, "InvalidAction", f"The action {name} is not valid for this endpoint.")
    return _model().operation_model(name)


def parameters(operation: OperationModel, form: Mapping[str, str]) -> dict[str, Any]:
    """A call's parameters. Refused for unknown, malformed and missing ones."""
    left = {name: value for name, value in form.items() if name not in _COMMON}
    shape = operation.input_shape
    given = _taken(shape, "", left) if shape else None
    if left:
        raise Refused(400, "UnknownParameter", f"The parameter {min(left)} is not recognized")
    found: dict[str, Any] = given or {}
    for name in shape.required_members if shape else ():
        if name not in found:
            raise Refused(400, "MissingParameter", f"The request must contain {name}")
    return found


def result(operation: OperationModel, values: Mapping[str, Any]) -> bytes:
    """The XML of a call's answer."""
    shape = operation.output_shape
    inner = _members(shape, values) if isinstance(shape, StructureShape) else ""
    return (
        f"<{operation.name}Response><requestId>0</requestId>{inner}</{operation.name}Response>"
    ).encode()


def _taken(shape: Shape, name: str, left: dict[str, str]) -> Any:
    """The value of `name`, taken out of `left`; None when there is none."""
    if isinstance(shape, StructureShape):
        members = {
            member: value
            for member, inner in shape.members.items()
            if (value := _taken(inner, _joined(name, _key(member, inner)), left)) is not None
        }
        return members or None
    if isinstance(shape, ListShape):
        values: list[Any] = []
        while (value := _taken(shape.member, f"{name}.{len(values) + 1}", left)) is not None:
            values.append(value)
        return values or None
    text = left.pop(name, None)
    if text is None:
        return None
    try:
        match shape.type_name:
            case "boolean":
                return {"true": True, "false": False}[text]
            case "integer" | "long":
                return int(text)
    except (KeyError, ValueError):
        raise Refused(400, "InvalidParameterValue", f"{name} is {text!r}") from None
    return text


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _key(member: str, shape: Shape) -> str:
    words = shape.serialization
    if "queryName" in words:
        return str(words["queryName"])
    name = str(words.get("name", member))
    return name[:1].upper() + name[1:]


def _members(shape: StructureShape, values: Mapping[str, Any]) -> str:
    unknown = set(values) - set(shape.members)
    assert not unknown, unknown
    return "".join(
        _element(str(shape.members[name].serialization.get("name", name)), shape.members[name], v)
        for name, v in values.items()
        if v is not None
    )


def _element(tag: str, shape: Shape, value: Any) -> str:
    if isinstance(shape, StructureShape):
        inner = _members(shape, value)
    elif isinstance(shape, ListShape):
        inner = "".join(_element("item", shape.member, entry) for entry in value)
    else:
        inner = str(value).lower() if isinstance(value, bool) else escape(str(value))
    return f"<{tag}>{inner}</{tag}>"
