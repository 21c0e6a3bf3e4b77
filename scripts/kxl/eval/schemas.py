"""JSON Schemas that somebody else wrote, applied without ever raising and without ever asking the network.

A tool's schema may name its draft in `$schema`, hold boolean subschemas and refer to its own parts. `schema_problem`
says, before anything is asked, why one cannot be applied; `problems` says why a value does not fit.
"""

import referencing
from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import SchemaError
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

ENDLESS = "it refers to itself without end"


def schema_problem(schema) -> str | None:
    """Why `schema` is no JSON Schema that can be applied; None where it is one."""
    try:
        _kind(schema).check_schema(schema)
        resource = referencing.Resource.from_contents(schema, default_specification=DRAFT202012)
        resolver = referencing.Registry().with_resource("", resource).resolver()
        for reference in _references(schema):
            if not reference.startswith("#") or not _leads_somewhere(resolver, reference):
                return f"it refers to {reference}, which is not in it"
    except SchemaError as error:
        place = " ".join(map(str, error.absolute_path))
        return f"{place + ': ' if place else ''}{error.message}"
    except RecursionError:
        return ENDLESS
    except Exception as error:  # whatever a library makes of a schema that nobody checked before
        return f"{type(error).__name__}: {error}"
    return next((why for why in problems(schema, {}) if why == ENDLESS), None)


def problems(schema, value) -> list[str]:
    """Why `schema` refuses `value`, one sentence each; [] where it takes it."""
    return [message for _, message in errors(schema, value)]


def errors(schema, value) -> list[tuple[tuple, str]]:
    """[(path into the value, why)] for each thing in `value` that `schema` refuses."""
    try:
        checker = _kind(schema)(schema, registry=referencing.Registry())
        return [(tuple(error.absolute_path), error.message) for error in checker.iter_errors(value)]
    except RecursionError:
        return [((), ENDLESS)]
    except Exception as error:
        return [((), f"its schema cannot be applied ({type(error).__name__}: {error})")]


def properties(schema) -> dict:
    """The properties that a schema of arguments names; {} where it names none."""
    found = schema.get("properties") if isinstance(schema, dict) else None
    return found if isinstance(found, dict) else {}


def has_default(rule) -> bool:
    """Whether a property's schema, which may be true or false, has a default."""
    return isinstance(rule, dict) and "default" in rule


def _kind(schema):
    return validators.validator_for(schema, Draft202012Validator) if isinstance(schema, dict) else Draft202012Validator


def _leads_somewhere(resolver, reference: str) -> bool:
    try:
        resolver.lookup(reference)
    except Unresolvable:
        return False
    return True


def _references(schema):
    """Every $ref in a schema; what only looks like one, among examples and defaults, is left out."""
    if isinstance(schema, list):
        for item in schema:
            yield from _references(item)
    elif isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"]
        for key, item in schema.items():
            if key not in ("const", "default", "enum", "examples"):
                yield from _references(item)
