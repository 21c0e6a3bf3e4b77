"""A stranger's chat template rendered within limits: it ends in time, and what it does wrong is one error.

    with rendering.limited(template, "models/mine"):
        text = ...                               # transformers' render_jinja_template, or apply_chat_template

Jinja's sandbox keeps a template from files and Python, not from loops in loops, from 9**9**9 or from a division by
zero. A template that took too long once is not tried again, or each of a thousand rows would take as long.
"""

import contextlib
import functools
import signal
import threading

import jinja2

from kxl.base.cli import UserError

SECONDS = 2  # of this process's time for one conversation; published templates need milliseconds
LARGEST_NUMBER = 10**8  # written in a template


class TemplateProblem(UserError):
    """A template that cannot be rendered."""


class _OutOfTime(BaseException):
    """Raised by the timer; no template and no library that renders it catches this."""


_too_slow: set[str] = set()


@contextlib.contextmanager
def limited(template: str, name: str):
    """What is rendered inside ends within SECONDS. TemplateProblem, with `name`, for whatever the template does wrong.

    Only the main thread has a timer; elsewhere errors are named and time is not limited.
    """
    slow = f"{name}: the chat template takes more than {SECONDS} s for one conversation; it loops: mend it"
    if why := _refused(template):
        raise TemplateProblem(f"{name}: the chat template {why}")
    if template in _too_slow:
        raise TemplateProblem(slow)
    try:
        with _timer():
            yield
    except _OutOfTime:
        _too_slow.add(template)
        raise TemplateProblem(slow) from None
    except RecursionError:
        raise TemplateProblem(f"{name}: the chat template calls itself without end") from None
    except MemoryError:
        raise TemplateProblem(f"{name}: the chat template fills the memory") from None
    except jinja2.TemplateSyntaxError as error:
        raise TemplateProblem(f"{name}: the chat template is no Jinja, line {error.lineno}: {error.message}") from None
    except (jinja2.TemplateError, ArithmeticError, TypeError, ValueError, LookupError, AttributeError) as error:
        said = str(error) or type(error).__name__
        raise TemplateProblem(f"{name}: the chat template cannot render this conversation: {said}") from None


@contextlib.contextmanager
def _timer():
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def out_of_time(*_):
        raise _OutOfTime

    # Time that this process works, so that a busy machine changes nothing.
    before = signal.signal(signal.SIGVTALRM, out_of_time)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@functools.lru_cache(maxsize=64)
def _refused(template: str) -> str | None:
    """Why a template is not even compiled: Jinja works out constants then, and Python cannot be interrupted at that."""
    try:
        for line, kind, text in jinja2.Environment().lex(template):
            if kind == "operator" and text == "**":
                return f"raises to a power in line {line}, which no chat needs; write the number out"
            if kind == "integer" and int(text.replace("_", ""), 0) > LARGEST_NUMBER:
                return f"has the number {text[:20]} in line {line}; no chat is that long"
    except (jinja2.TemplateSyntaxError, ValueError, OverflowError):
        return None  # said with its line when it is compiled
    return None


def try_out(template: str, name: str) -> None:
    """TemplateProblem for a template that does not end or is refused; one that wants other messages is fine."""
    from transformers.utils.chat_template_utils import render_jinja_template

    chat = [{"role": role, "content": "hi"} for role in ("user", "assistant", "user")]
    special = {"bos_token": "", "eos_token": ""}
    try:
        with limited(template, name):
            render_jinja_template([chat], chat_template=template, add_generation_prompt=True, **special)
    except TemplateProblem:
        if template in _too_slow or _refused(template):
            raise
