"""Does a value fit a JSON schema? The part of JSON Schema that tools use, without anything that can take long.

    problem({"repo": "a/b"}, schema)      # None: it fits; otherwise why not, or why that cannot be told

Understood are the keywords that MCP servers write, `nullable` of OpenAPI and references inside the schema; a
keyword that is not known here, `pattern` among them, leaves it in doubt. Standard library only.
"""

import json

# What a schema may say beside the value's shape; none of it can refuse a value.
ANNOTATIONS = {
    "$anchor", "$comment", "$defs", "$id", "$schema", "default", "definitions", "deprecated", "description", "example",
    "examples", "format", "nullable", "readOnly", "title", "writeOnly",
}  # fmt: skip
KNOWN = ANNOTATIONS | {
    "$ref", "additionalProperties", "allOf", "anyOf", "const", "enum", "exclusiveMaximum", "exclusiveMinimum", "items",
    "maxItems", "maxLength", "maxProperties", "maximum", "minItems", "minLength", "minProperties", "minimum", "oneOf",
    "properties", "required", "type", "uniqueItems",
}  # fmt: skip
TYPES = {"string": str, "boolean": bool, "array": list, "object": dict, "null": type(None)}
MAX_STEPS = 20_000  # schemas looked at for one value; Hermes's own tools need under 40
MAX_DEPTH = 60  # schemas inside each other on the way to a value


class Unsure(Exception):
    """Whether the value fits cannot be told here; the message says why."""


def problem(value, schema) -> str | None:
    """Why `value` does not fit, or why that cannot be told; None when it fits.

    Stricter than JSON Schema in one thing: where `properties` names arguments, another one is refused unless
    `additionalProperties` allows it in so many words, since no model was told of it.
    """
    try:
        return _Check(schema).problem(value, schema, strict=True, depth=0)
    except (Unsure, RecursionError) as doubt:
        return str(doubt) or "nested too deeply"
    except (TypeError, AttributeError, ValueError, KeyError) as error:  # a schema that is none
        return f"the schema cannot be read ({type(error).__name__})"


class _Check:
    def __init__(self, root):
        self.root, self.steps = root, 0
        self.allowed: dict[int, list[set]] = {}  # by a schema's id: what `const` and `enum` allow, as JSON, read once

    def problem(self, value, schema, strict: bool, depth: int) -> str | None:
        self.steps += 1
        if self.steps > MAX_STEPS or depth > MAX_DEPTH:
            raise Unsure("the schema takes too long to check")
        if isinstance(schema, bool):
            return None if schema else "nothing is allowed"
        if value is None and schema.get("nullable") is True:
            return None
        why = self._plain_problem(value, schema)
        if why is None and isinstance(value, dict):
            why = self._object_problem(value, schema, strict, depth)
        if why is None and isinstance(value, list):
            why = self._items_problem(value, schema, strict, depth)
        if why is None:
            why = self._combined_problem(value, schema, strict, depth)
        # Only what nothing known refuses is in doubt.
        unknown = sorted(key for key in set(schema) - KNOWN if not key.startswith("x-"))
        if why is None and unknown:
            raise Unsure(f"the schema uses {', '.join(unknown)}")
        return why

    def _plain_problem(self, value, schema: dict) -> str | None:
        """What can be said without looking into the value."""
        if "type" in schema:
            names = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
            if not any(_is(value, name) for name in names):
                return f"not {schema['type']}"
        if not all(_text(value) in allowed for allowed in self._allowed(schema)):
            return "not one of the allowed values"
        if isinstance(value, str):
            if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
                return "too short or too long"
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return _number_problem(value, schema)
        return None

    def _allowed(self, schema: dict) -> list[set]:
        if id(schema) not in self.allowed:
            lists = [[schema["const"]]] if "const" in schema else []
            lists += [] if schema.get("enum") is None else [schema["enum"]]
            self.allowed[id(schema)] = [{_text(one) for one in values} for values in lists]
        return self.allowed[id(schema)]

    def _object_problem(self, value: dict, schema: dict, strict: bool, depth: int) -> str | None:
        if missing := [name for name in schema.get("required", []) if name not in value]:
            return f"{', '.join(missing)} missing"
        if not schema.get("minProperties", 0) <= len(value) <= schema.get("maxProperties", len(value)):
            return "too few or too many keys"
        properties = schema.get("properties", {})
        others = schema.get("additionalProperties", not (strict and self._names_arguments(schema, depth)))
        for name, item in value.items():
            if name not in properties and others is False:
                if "additionalProperties" not in schema and name in self._named(schema, depth):
                    continue  # an allOf branch has its schema
                return f"{name} is not an argument"
            try:
                why = self.problem(item, properties.get(name, others), strict, depth + 1)
            except Unsure as doubt:
                raise Unsure(f"{name}: {doubt}") from None
            if why:
                return f"{name}: {why}"
        return None

    def _names_arguments(self, schema: dict, depth: int) -> bool:
        """Whether the schema lists its keys. At the top an empty list is one, too: a tool without arguments."""
        return bool(self._named(schema, depth)) or (depth == 0 and "properties" in schema)

    def _named(self, schema: dict, depth: int) -> set:
        names = set(schema.get("properties", {}))
        for branch in schema.get("allOf", []):
            branch = self._resolved(branch["$ref"]) if isinstance(branch, dict) and "$ref" in branch else branch
            names |= set(branch.get("properties", {})) if isinstance(branch, dict) else set()
        return names

    def _items_problem(self, value: list, schema: dict, strict: bool, depth: int) -> str | None:
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            return "too few or too many items"
        if schema.get("uniqueItems") is True and len({_text(_whole(item)) for item in value}) < len(value):
            return "an item stands twice"
        items = schema.get("items", True)
        if not isinstance(items, (dict, bool)):
            raise Unsure("the schema uses a list of items")
        return next((why for item in value if (why := self.problem(item, items, strict, depth + 1))), None)

    def _combined_problem(self, value, schema: dict, strict: bool, depth: int) -> str | None:
        if "$ref" in schema and (why := self.problem(value, self._resolved(schema["$ref"]), strict, depth + 1)):
            return why
        # What several schemas say together is read as JSON Schema does: each knows only its own keys.
        for branch in schema.get("allOf", []):
            if why := self.problem(value, branch, False, depth + 1):
                return why
        if "anyOf" in schema and not self._fits_one(value, schema["anyOf"], strict, depth):
            return "fits none of anyOf"
        if "oneOf" in schema:
            fitting = [branch for branch in schema["oneOf"] if self.problem(value, branch, False, depth + 1) is None]
            if len(fitting) != 1:
                return "does not fit exactly one of oneOf"
            return self.problem(value, fitting[0], strict, depth + 1)
        return None

    def _fits_one(self, value, branches: list, strict: bool, depth: int) -> bool:
        doubt = None
        for branch in branches:
            try:
                if self.problem(value, branch, strict, depth + 1) is None:
                    return True
            except Unsure as error:
                doubt = error
        if doubt:
            raise doubt
        return False

    def _resolved(self, reference):
        """The schema that a reference into this very schema names; nothing is ever fetched."""
        schema = self.root
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            raise Unsure("the schema uses $ref")
        for step in reference.split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(schema, dict) or step not in schema:
                raise Unsure("the schema uses $ref")
            schema = schema[step]
        return schema


def _number_problem(value: int | float, schema: dict) -> str | None:
    low, high = schema.get("minimum", value), schema.get("maximum", value)
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    fits = low <= value <= high
    # Drafts 3 and 4 have a boolean here, which makes the other bound an open one.
    fits = fits and (above is None or above is False or value > (low if above is True else above))
    fits = fits and (below is None or below is False or value < (high if below is True else below))
    return None if fits else "out of range"


def _is(value, name: str) -> bool:
    if name in ("number", "integer"):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and (name == "number" or value == value // 1)
    return isinstance(value, TYPES.get(name, ()))  # a type that nobody knows fits nothing


def _text(value) -> str:
    """Two values are the same when their JSON is: 1, 1.0 and true stay apart."""
    return json.dumps(value, sort_keys=True)


def _whole(value):
    """A value with 1 for 1.0, which are one number to JSON Schema."""
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
