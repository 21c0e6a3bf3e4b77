"""JSON Schemas that somebody else wrote, applied without raising, without the network and without end.

    why = schema_problem(schema)             # None, or why it cannot be applied, before anything is asked of it
    whys = problems(schema, value)           # why it refuses the value, one sentence each; [] where it takes it

A tool's schema may name its draft in `$schema`, hold boolean subschemas and refer to its own parts; a reference that
leads outside is never followed. A value gets SECONDS of this thread's time, a pattern PATTERN_SECONDS of them: "(a+)+$"
and references that branch everywhere would take until the sun goes out. A schema that was too slow once is not tried
again. Patterns of eval suites have the same limit (`fullmatch`).
"""

import functools
import json
import threading
import time

import referencing
import regex
from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import SchemaError, ValidationError, best_match
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

SECONDS, PATTERN_SECONDS = 0.5, 0.1
LONGEST_PATTERN = 2000  # characters; a pattern takes time to be read, too
MOST_ERRORS = 100
ENDLESS = "it refers to itself without end"
SLOW = f"it takes more than {SECONDS} s to apply"

_deadline = threading.local()


class TooSlow(Exception):
    """A value or a pattern had its time."""


class BadPattern(ValueError):
    """A pattern that cannot be compiled, or took too long; the message says which."""


def schema_problem(schema) -> str | None:
    """Why `schema` is no JSON Schema that can be applied; None where it is one."""
    return _schema_problem(_text(schema))


def problems(schema, value) -> list[str]:
    """Why `schema` refuses `value`, one sentence each; [] where it takes it."""
    return [message for _, message in errors(schema, value)]


def errors(schema, value) -> list[tuple[tuple, str]]:
    """[(path into the value, why)] for the first MOST_ERRORS things in `value` that `schema` refuses."""
    text = _text(schema)
    if why := _too_slow.get(text):
        return [((), f"its schema cannot be applied: {why}")]
    try:
        found = []
        with _limit():
            for error in _checker(text).iter_errors(value):
                found.append((tuple(error.absolute_path), error.message))
                if len(found) == MOST_ERRORS:
                    break
        return found
    except TooSlow as error:
        _too_slow[text] = str(error) or SLOW
        return [((), f"its schema cannot be applied: {_too_slow[text]}")]
    except RecursionError:
        return [((), ENDLESS)]
    except Exception as error:  # whatever a library makes of a schema that nobody checked before
        return [((), f"its schema cannot be applied ({type(error).__name__}: {error})"[:300])]


def properties(schema) -> dict:
    """The properties that a schema of arguments names; {} where it names none."""
    found = schema.get("properties") if isinstance(schema, dict) else None
    return found if isinstance(found, dict) else {}


def has_default(rule) -> bool:
    """Whether a property's schema, which may be true or false, has a default."""
    return isinstance(rule, dict) and "default" in rule


def pattern_problem(pattern: str) -> str | None:
    """Why a pattern cannot be used; None where it can."""
    try:
        compiled(pattern)
    except BadPattern as error:
        return str(error)
    return None


def fullmatch(pattern: str, text: str) -> bool:
    """Whether the pattern takes the whole text. BadPattern where that cannot be told in PATTERN_SECONDS."""
    try:
        return compiled(pattern).fullmatch(text, timeout=PATTERN_SECONDS) is not None
    except TimeoutError:
        raise BadPattern(f"the pattern {pattern[:60]!r} takes more than {PATTERN_SECONDS} s") from None


@functools.lru_cache(maxsize=1024)
def compiled(pattern: str) -> regex.Pattern:
    """The pattern as the regex module has it: Python's syntax, and a time limit when it is used."""
    if not isinstance(pattern, str) or len(pattern) > LONGEST_PATTERN:
        raise BadPattern(f"it must be a text of at most {LONGEST_PATTERN} characters")
    try:
        return regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError) as error:
        raise BadPattern(str(error) or "too deep") from None


_too_slow: dict[str, str] = {}


class _limit:
    """Within it, keywords of schemas raise TooSlow once this thread has worked for SECONDS."""

    def __enter__(self):
        _deadline.at = time.thread_time() + SECONDS

    def __exit__(self, *_):
        _deadline.at = float("inf")


def _text(schema) -> str:
    return json.dumps(schema, sort_keys=True, default=str)


@functools.lru_cache(maxsize=1024)
def _schema_problem(text: str) -> str | None:
    try:
        schema = json.loads(text)
        kind = _kind(schema)
        with _limit():
            problem = best_match(_in_time(kind)(kind.META_SCHEMA).iter_errors(schema))
            if problem:
                raise SchemaError.create_from(problem)
            resource = referencing.Resource.from_contents(schema, default_specification=DRAFT202012)
            resolver = referencing.Registry().with_resource("", resource).resolver()
            for place, inside in _keywords(schema, ()):
                if place[-1] == "$ref" and not (inside.startswith("#") and _leads_somewhere(resolver, inside)):
                    return f"it refers to {inside[:200]}, which is not in it"
                if place[-1] != "$ref" and (why := pattern_problem(inside)):
                    return f"{' '.join(place)}: {inside[:60]!r} is not a 'regex' that can be used: {why}"
    except SchemaError as error:
        place = " ".join(map(str, error.absolute_path))
        return f"{place + ': ' if place else ''}{error.message}"[:300]
    except TooSlow as error:
        return str(error) or SLOW
    except RecursionError:
        return ENDLESS
    except Exception as error:  # whatever a library makes of a schema that nobody checked before
        return f"{type(error).__name__}: {error}"[:300]
    return next((why for why in problems(schema, {}) if why == ENDLESS), None)


@functools.lru_cache(maxsize=1024)
def _checker(text: str):
    schema = json.loads(text)
    return _in_time(_kind(schema))(schema, registry=referencing.Registry())


def _kind(schema):
    return validators.validator_for(schema, Draft202012Validator) if isinstance(schema, dict) else Draft202012Validator


def _leads_somewhere(resolver, reference: str) -> bool:
    try:
        resolver.lookup(reference)
    except Unresolvable:
        return False
    return True


def _keywords(schema, place: tuple):
    """(place, text) of every $ref and pattern of a schema; not of what looks like one in examples."""
    if isinstance(schema, list):
        for number, item in enumerate(schema):
            yield from _keywords(item, (*place, str(number)))
    elif isinstance(schema, dict):
        for name, item in schema.items():
            if name in ("$ref", "pattern") and isinstance(item, str):
                yield (*place, name), item
            if name == "patternProperties" and isinstance(item, dict):
                yield from (((*place, name), pattern) for pattern in item)
            if name not in ("const", "default", "enum", "examples"):
                yield from _keywords(item, (*place, name))


@functools.cache
def _in_time(kind):
    """The validator class with every keyword watching the clock, and with patterns that have a time limit."""
    own = {"pattern": _pattern, "patternProperties": _pattern_properties, "uniqueItems": _unique_items}
    keywords = {**kind.VALIDATORS, **{name: rule for name, rule in own.items() if name in kind.VALIDATORS}}
    for name in ("additionalProperties", "unevaluatedProperties"):
        if name in keywords:
            keywords[name] = _without_patterns(keywords[name]) if name[0] == "u" else _additional(keywords[name])
    return validators.extend(kind, {name: _watched(rule) for name, rule in keywords.items()})


def _watched(keyword):
    def watched(validator, value, instance, schema):
        if time.thread_time() > getattr(_deadline, "at", float("inf")):
            raise TooSlow
        yield from keyword(validator, value, instance, schema) or ()

    return watched


def _search(pattern: str, text: str) -> bool:
    try:
        return compiled(pattern).search(text, timeout=PATTERN_SECONDS) is not None
    except TimeoutError:
        raise TooSlow(f"its pattern {pattern[:60]!r} takes more than {PATTERN_SECONDS} s") from None


def _pattern(validator, pattern, instance, schema):
    if validator.is_type(instance, "string") and not _search(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(validator, patterns, instance, schema):
    if validator.is_type(instance, "object"):
        for pattern, rule in patterns.items():
            for name, value in instance.items():
                if _search(pattern, name):
                    yield from validator.descend(value, rule, path=name, schema_path=pattern)


def _additional(keyword):
    def additional(validator, rule, instance, schema):
        if "patternProperties" not in schema:
            yield from keyword(validator, rule, instance, schema) or ()
        elif validator.is_type(instance, "object"):
            named, patterns = schema.get("properties", {}), schema["patternProperties"]
            for name, value in instance.items():
                if name not in named and not any(_search(pattern, name) for pattern in patterns):
                    if rule is False:
                        yield ValidationError(f"Additional properties are not allowed ({name!r} was unexpected)")
                    elif rule is not True:
                        yield from validator.descend(value, rule, path=name)

    return additional


def _without_patterns(keyword):
    """unevaluatedProperties looks for patterns by itself, without a limit: not beside any."""

    def unevaluated(validator, rule, instance, schema):
        if '"patternProperties"' in json.dumps(validator._resolver.lookup("#").contents):
            raise TooSlow("it has patternProperties beside unevaluatedProperties, which have no time limit")
        yield from keyword(validator, rule, instance, schema) or ()

    return unevaluated


def _unique_items(validator, unique, instance, schema):
    if unique and validator.is_type(instance, "array"):
        # 1, 1.0 and true: the first two are one value, the third another.
        seen = {json.dumps(item, sort_keys=True, default=str) for item in _as_json_counts(instance)}
        if len(seen) < len(instance):
            yield ValidationError("an array that has non-unique elements")


def _as_json_counts(value):
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_as_json_counts(item) for item in value]
    if isinstance(value, dict):
        return {key: _as_json_counts(item) for key, item in value.items()}
    return value
