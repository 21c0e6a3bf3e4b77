"""A program, not a module: inside the wheel's environment, write its cases as it would send and check them.

  python wheel_cases.py OUT.jsonl CATEGORY,CATEGORY

A line per case:

  id, category       the wheel's own
  turns              [[message, ...], ...]; an empty turn is one in which a withheld tool is handed out
  tools              OpenAI tools, as the wheel's OpenAI handler makes them
  later              {turn: tools that are handed out there}
  functions          the descriptions that answers are checked with (their types are Python's, Java's, JavaScript's)
  truth              accepted answers, null where there is none
  classes, config    of a case with executable APIs: which, and how they start
  scenario, after    of a memory case: whose memory, and the conversations that come before
"""

import copy
import json
import sys

import wheel_stubs  # noqa: F401  first: the wheel cannot be imported without it
from bfcl_eval import utils
from bfcl_eval.constants.enums import ModelStyle
from bfcl_eval.constants.type_mappings import GORILLA_TO_OPENAPI
from bfcl_eval.model_handler.utils import convert_to_tool


def cases(category: str) -> list[dict]:
    plain = utils.load_dataset_entry(category, include_language_specific_hint=False)
    hinted = utils.load_dataset_entry(category)
    truths = {}
    if not utils.is_relevance_or_irrelevance(category):
        asked = [entry["id"] for entry in plain if not utils.is_memory_prereq(entry["id"])]
        accepted = utils.load_ground_truth_entry(category)
        assert len(asked) == len(accepted), category
        truths = dict(zip(asked, (entry["ground_truth"] for entry in accepted)))
    return [case(category, one, other, truths.get(one["id"])) for one, other in zip(plain, hinted)]


def case(category: str, plain: dict, hinted: dict, truth: list | None) -> dict:
    assert plain["id"] == hinted["id"]
    made = {
        "id": plain["id"],
        "category": category,
        "turns": hinted["question"],
        "tools": tools(hinted["function"]),
        "truth": truth,
    }
    if "involved_classes" in plain:
        made["classes"] = plain["involved_classes"]
        made["config"] = plain.get("initial_config", {})
        made["later"] = {turn: tools(held) for turn, held in hinted.get("missed_function", {}).items()}
    else:
        made["functions"] = plain["function"]
    if "scenario" in plain:
        made |= {"scenario": plain["scenario"], "after": plain["depends_on"]}
    return made


def tools(functions: list) -> list:
    return convert_to_tool(copy.deepcopy(functions), GORILLA_TO_OPENAPI, ModelStyle.OPENAI_COMPLETIONS)


def main(out: str, categories: list[str]) -> None:
    with open(out, "w", encoding="utf-8") as file:
        for category in categories:
            for made in cases(category):
                file.write(json.dumps(made, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2].split(","))
