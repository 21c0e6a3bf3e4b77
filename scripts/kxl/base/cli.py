"""What every command of this project does at its edges: one clear error, exit code, last line.

A script raises UserError for anything the person at the keyboard can mend; `run` prints it as
one line without a traceback and exits with 2. Any other exception is a bug and keeps its
traceback (exit code 1). Ctrl-C exits with 130 and says that finished work is kept.

What a model, a server or a file name says is printed with its control characters spelled out: a terminal
would obey them (change the title, clear the screen, write over lines, reverse the reading direction).
"""

import argparse
import re
import sys
import time
from collections.abc import Callable

from kxl.base import history
from kxl.base.errors import UserError, refusal

STARTED = time.time_ns()  # when this command began, in nanoseconds


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keep the docstring's line breaks and print each default beside its flag."""

    def _get_help_string(self, action):
        # A flag without a default is required or simply off: "(default: None)" tells nobody anything.
        if action.default is None or action.default is False or action.required:
            return action.help
        return super()._get_help_string(action)


def parser(doc: str) -> argparse.ArgumentParser:
    """An argument parser whose --help opens with the script's own docstring."""
    return argparse.ArgumentParser(description=doc.strip(), formatter_class=HelpFormatter)


# Control characters but newline and tab, lone surrogates (names that are not UTF-8), line separators that are no
# newline, and the marks that turn the reading direction.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def pair(flag: str, form: str, kind: Callable = str) -> Callable[[str], tuple]:
    """The type of an argument `flag NAME=VALUE`: (name, kind(value)). UserError says to write it as `form`."""

    def read(text: str) -> tuple:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UserError(f"{flag} {text}: write it as {form}")
        return name, kind(value)

    return read


def printable(text: str) -> str:
    """`text` with every character spelled out that a terminal would obey instead of showing, as in \\x1b."""
    return _OBEYED.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode("ascii"), text)


def say(line: str) -> None:
    """Progress for people, on stderr, so that stdout stays free for results."""
    print(printable(line), file=sys.stderr, flush=True)


class _Plain:
    """A text stream that passes on only what is printable; `kept` may pass as well (a progress bar needs \\r)."""

    def __init__(self, stream, kept: str = ""):
        self._stream, self._kept = stream, kept

    def write(self, text: str) -> int:
        parts = re.split(f"([{self._kept}])", text) if self._kept else [text]
        self._stream.write("".join(part if part and part in self._kept else printable(part) for part in parts))
        return len(text)

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


def run(main) -> None:
    """Call `main()` and turn its outcome into an exit code."""
    from kxl.base import files  # it needs UserError from here

    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Plain(sys.stdout), _Plain(sys.stderr, kept="\r")
    code = 0
    try:
        with files.sole_writer(history.outputs(sys.argv)), history.recorded(sys.argv):
            main()
    except UserError as error:
        say(f"error: {error}")
        code = 2
    except KeyboardInterrupt:
        say("interrupted: what was finished is kept, nothing half-written was left; run the same command again")
        code = 130
    except BrokenPipeError:
        code = 141
    except OSError as error:
        if (why := refusal(error)) is None:
            raise
        say(f"error: {error.filename or error.strerror or error}: {why}")
        code = 2
    # A crash does not come here: its traceback is printed through the plain streams, too.
    sys.stdout, sys.stderr = streams
    if code:
        sys.exit(code)
