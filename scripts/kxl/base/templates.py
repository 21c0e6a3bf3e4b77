"""Text from a Jinja template and values that were read from JSON; what a template asks for must be there.

A template that asks an object of a file for a key that it lacks is that file's fault, as in Python code
(kxl.base.files.Object): the error names both. Any other name that nobody set is a bug of ours and stays one.
"""

from pathlib import Path

import jinja2

from kxl.base.errors import MissingKey
from kxl.base.files import Object


class _Environment(jinja2.Environment):
    def getattr(self, obj, attribute: str):
        found = super().getattr(obj, attribute)
        if isinstance(obj, Object) and isinstance(found, jinja2.Undefined):
            raise MissingKey(obj.file, attribute)
        return found


def environment(**settings) -> jinja2.Environment:
    """Jinja, where a name that nobody set is an error."""
    return _Environment(undefined=jinja2.StrictUndefined, **settings)


def render(template: Path, values: dict) -> str:
    """A text file's template, as it stands: nothing is escaped."""
    made = environment(autoescape=False, keep_trailing_newline=True)
    return made.from_string(template.read_text(encoding="utf-8")).render(**values)
