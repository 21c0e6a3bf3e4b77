"""For programs, not a module of ours: make `bfcl_eval` importable in its environment without thirty vendors' clients.

The wheel's checkers import its list of models, which imports a client of each vendor, and ask it one thing alone:
whether a dot in a function's name becomes an underscore. For servers that speak OpenAI's protocol it does.
"""

import sys
import types


class _Models(dict):
    """The wheel's list of models, in which each name is a model that calls tools by OpenAI's protocol."""

    def __missing__(self, name):
        return types.SimpleNamespace(underscore_to_dot=True, is_fc_model=True)


def _stand_in(name: str, **members) -> None:
    module = types.ModuleType(name)
    module.__dict__.update(members)
    sys.modules[name] = module


_stand_in("bfcl_eval.constants.model_config", MODEL_CONFIG_MAPPING=_Models())
_stand_in("openai", OpenAI=object, RateLimitError=type("RateLimitError", (Exception,), {}))  # asks a vendor's server
_stand_in("pandas")  # writes the leaderboard's tables
# These read calls that a model wrote as source code. A model that calls tools never does.
_stand_in("bfcl_eval.model_handler.parser.java_parser", parse_java_function_call=None)
_stand_in("bfcl_eval.model_handler.parser.js_parser", parse_javascript_function_call=None)
