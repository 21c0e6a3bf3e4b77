"""For a program in the box, not a module of ours: the verdicts of the wheel's own checkers, with its own handler.

    check(category, entry, truth, answer)      # (passed, its kind of error or None)

`answer` is what the wheel keeps of a model: of a single turn [{NAME: arguments as JSON text}, ...] or a text; of a
conversation that for each step of each turn.
"""

import copy

import wheel_stubs  # noqa: F401  first: the wheel cannot be imported without it
from bfcl_eval import utils
from bfcl_eval.constants.enums import Language, ReturnFormat
from bfcl_eval.eval_checker import eval_runner
from bfcl_eval.eval_checker.multi_turn_eval import multi_turn_utils
from bfcl_eval.model_handler.api_inference.openai_completion import OpenAICompletionsHandler

LANGUAGES = {
    "simple_java": (Language.JAVA, ReturnFormat.JAVA),
    "simple_javascript": (Language.JAVASCRIPT, ReturnFormat.JAVASCRIPT),
}

_handler = OpenAICompletionsHandler.__new__(OpenAICompletionsHandler)  # without a client of a vendor's server
_handler.is_fc_model = True
_entries: dict[str, dict] = {}


def _of(category: str) -> dict:
    """{id: (entry, truth)} of a category, read once."""
    if category not in _entries:
        found = utils.load_dataset_entry(category, include_prereq=False, include_language_specific_hint=False)
        judged = not utils.is_relevance_or_irrelevance(category)
        truths = utils.load_ground_truth_entry(category) if judged else found
        _entries[category] = {
            entry["id"]: (entry, truth["ground_truth"] if judged else None) for entry, truth in zip(found, truths)
        }
    return _entries[category]


def check(category: str, identity: str, answer) -> tuple[bool, str | None]:
    """(whether the wheel passes the answer, its kind of error); a crash of the wheel is ("crash: ...")."""
    entry, truth = _of(category)[identity]
    entry = copy.deepcopy(entry)
    known = set(vars(multi_turn_utils))
    try:
        if utils.is_relevance_or_irrelevance(category):
            verdict = eval_runner._evaluate_single_relevance_entry(_handler, identity, answer, entry, "model", category)
        elif utils.is_multi_turn(category):
            verdict = eval_runner._evaluate_single_multi_turn_entry(
                _handler, identity, answer, truth, entry, "model", category
            )
        elif utils.is_agentic(category):
            verdict = eval_runner._evaluate_single_agentic_entry(
                _handler, identity, answer, truth, entry, "model", category
            )
        else:
            language, form = LANGUAGES.get(category, (Language.PYTHON, ReturnFormat.PYTHON))
            verdict = eval_runner._evaluate_single_ast_entry(
                _handler, identity, answer, truth, entry, "model", category, language, form
            )
    except Exception as error:  # any: the wheel is judged here, not trusted
        return False, f"crash: {type(error).__name__}: {error}"
    finally:
        # The wheel keeps the APIs of a conversation in its module, and would go on with them.
        for name in set(vars(multi_turn_utils)) - known:
            delattr(multi_turn_utils, name)
    kind = verdict.get("error_type") or (verdict.get("error") or {})
    return bool(verdict["valid"]), kind.get("error_type") if isinstance(kind, dict) else kind
