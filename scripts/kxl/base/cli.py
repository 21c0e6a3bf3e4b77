"""What every command of this project does at its edges: one clear error, exit code, last line.

A script raises UserError for anything the person at the keyboard can mend; `run` prints it as
one line without a traceback and exits with 2. Any other exception is a bug and keeps its
traceback (exit code 1). Ctrl-C exits with 130 and says that finished work is kept.
"""

import argparse
import sys
import time

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


def say(line: str) -> None:
    """Progress for people, on stderr, so that stdout stays free for results."""
    print(line, file=sys.stderr, flush=True)


def run(main) -> None:
    """Call `main()` and turn its outcome into an exit code."""
    try:
        with history.recorded(sys.argv):
            main()
    except UserError as error:
        say(f"error: {error}")
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(141)
    except OSError as error:
        if (why := refusal(error)) is None:
            raise
        say(f"error: {error.filename or error.strerror or error}: {why}")
        sys.exit(2)
    except KeyboardInterrupt:
        say("interrupted: what was finished is kept, nothing half-written was left; run the same command again")
        sys.exit(130)
