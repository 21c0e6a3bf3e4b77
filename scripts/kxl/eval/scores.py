"""From answers to a report's results: the verdict on each case, the counts, the gate, the lines for people."""

import json
from pathlib import Path

from kxl.base import forms, gates, statistics
from kxl.base import report as reports
from kxl.base.cli import UserError
from kxl.base.files import read_json, shown
from kxl.eval import verdicts
from kxl.eval.suites import KINDS, Suite
from kxl.eval.verdicts import Answer

LONGEST_SAID = 160  # characters of an answer in the log; the report has it whole

# The form of a report of eval_run.py or live_run.py, as far as other commands read it.
SAID, COUNT = (str, None), {"passed": int, "cases": int}
TRIED = {
    "title": str,
    "passed?": int,
    "tasks?": int,
    "attempts": int,
    "attempts_passed": int,
    "attempts_interval": [float],
}
MESSAGE = {"role": str, "content?": SAID, "tool_calls?": [{"function": {"name": str}}]}
JUDGED = {"passed": bool, "why?": [str], "text?": SAID}
ENTRY = {
    "id": str,
    **JUDGED,
    **{f"{key}?": SAID for key in ("category", "kind", "content", "thought", "prompt", "answer", "errors")},
    "calls?": [{"name": str}],
    "messages?": [MESSAGE],
    "conversation?": [{"from": str, "value": str}],
    "checked?": [str],
    "obeyed?": ([str], None),
    "raw?": (JUDGED, None),
    "trials?": {"passed?": [bool], "obeyed?": [bool], "seconds?": [float]},
    "seconds?": float,
    "steps?": int,
}
RESULTS = {
    "passed?": int,
    **{f"{key}?": int for key in ("cases", "tasks", "trials", "attempts", "attempts_passed", "text_tool_leaks")},
    "by_category?": {"*": COUNT},
    "by_kind?": {"*": TRIED},
    **{f"{key}?": (COUNT, None) for key in ("raw", "tool_calls")},
    "no_tool?": {"false_positives": int},
    "latency?": {"median": float, "p95": float},
    "pass_k?": {"*": float},
    "injected?": {"obeyed": int, "attempts": int},
    "made_for?": {"kinds?": [str], **{f"{key}?": int for key in ("passed", "tasks", "attempts", "attempts_passed")}},
    "seconds?": float,
    "output_tokens_per_second?": (float, None),
    "infrastructure?": {"errors?": int},
}
SETTINGS = {"suite": str, "artifact": str, "backend?": str, "trials?": int, "temperature?": float}


def load(path: Path) -> dict:
    """A report of eval_run.py or live_run.py; UserError names file and place where it is none."""
    report = read_json(path)
    if "details" not in (report["results"] if isinstance(report.get("results"), dict) else ()):
        raise UserError(f"{shown(path)}: neither a report of eval_run.py nor of live_run.py")
    # A case lists its calls, a live task says how many it needs.
    of_case = ENTRY | ({"calls?": int} if "tasks" in report["results"] else {})
    forms.check(
        report,
        {"inputs?": [reports.INPUT], "settings": SETTINGS, "results": RESULTS | {"details": [of_case]}},
        shown(path),
    )
    results = report["results"]
    if any(len(tally["attempts_interval"]) != 2 for tally in results.get("by_kind", {}).values()):
        raise UserError(f"{shown(path)}: an interval has two ends; evaluate again")
    for tally in (results, *results.get("by_category", {}).values(), *results.get("by_kind", {}).values()):
        for passed, of in (("passed", "cases"), ("passed", "tasks"), ("attempts_passed", "attempts")):
            if of in tally and (not 0 <= tally.get(passed, 0) <= tally[of] or not tally[of]):
                raise UserError(
                    f"{shown(path)}: {tally.get(passed, 0)} of {tally[of]} {of} is no count; evaluate again"
                )
    return report


def entry(suite: Suite, case: dict, answers: list, backend: str) -> dict:
    """One case's entry in the report: the answer, or with several trials the worst of them and how many passed."""
    tried = [judged(suite, case, *answer, backend) for answer in answers]
    worst = min(
        tried,
        key=lambda one: (
            one["passed"],
            not one["leaks"],
            one["kind"] == "no_tool" and not one["calls"],
            one["raw"]["passed"] if one["raw"] else True,
        ),
    )
    if len(tried) == 1:
        return worst
    if worst["raw"]:
        worst["raw"]["passed"] = all(one["raw"]["passed"] for one in tried)
    return {
        **worst,
        "trials": {
            "passed": [one["passed"] for one in tried],
            "seconds": [one["seconds"] for one in tried],
            "why": sorted({why for one in tried for why in one["why"]}),
        },
    }


def judged(suite: Suite, case: dict, parsed: Answer, raw: Answer | None, backend: str) -> dict:
    """What came back for one case, and the verdict on it. A filled prompt is recorded with its {filler} marks."""
    why = verdicts.judge(suite, case, parsed)
    # The chat request continues from the raw one, so its own cache count and time would flatter.
    cost = raw if raw and backend == "llama_cpp" else parsed
    made = {
        "id": case["id"],
        "kind": case["kind"],
        "category": case["category"],
        "messages": case["messages"],
        "thought": parsed.thought,
        "thought_tokens": parsed.thought_tokens if parsed.thought is not None else None,
        "content": parsed.content,
        "calls": parsed.calls,
        "finish_reason": parsed.finish_reason,
        "passed": not why,
        "why": why,
        "leaks": verdicts.leaks(suite.of(case), parsed),
        "notes": parsed.notes,
        "raw": None,
        "prompt_tokens": cost.prompt_tokens,
        "cached_tokens": cost.cached_tokens,
        "output_tokens": cost.output_tokens,
        "seconds": round(cost.seconds, 3),
    }
    if raw:
        raw_why = verdicts.judge(suite, case, raw)
        made["raw"] = {
            "text": raw.raw_text,
            "thought": raw.thought,
            "calls": raw.calls,
            "passed": not raw_why,
            "why": raw_why,
        }
    return made


def count(details: list, trials: int = 1) -> dict:
    """The numbers of a report from its details. With several trials a case passes when all of them do."""
    of_kind = {kind: [entry for entry in details if entry["kind"] == kind] for kind in KINDS}
    categories = sorted({entry["category"] for entry in details})
    raw = [entry["raw"] for entry in details if entry["raw"]]
    results = {
        **tally(details),
        "tool_calls": tally(of_kind["tool_call"]),
        "no_tool": {
            "cases": len(of_kind["no_tool"]),
            "false_positives": sum(bool(entry["calls"]) for entry in of_kind["no_tool"]),
        },
        "finalization": tally(of_kind["finalization"]),
        "text_tool_leaks": sum(bool(entry["leaks"]) for entry in details),
        "by_category": {name: tally([entry for entry in details if entry["category"] == name]) for name in categories},
        "raw": tally(raw) if raw else None,
        "prompt_tokens": sum(entry["prompt_tokens"] for entry in details),
        "cached_tokens": sum(entry["cached_tokens"] for entry in details),
        "details": details,
    }
    results["intervals"] = {
        name: interval(results[name])
        for name in ("tool_calls", "finalization", "raw")
        if results[name] and results[name]["cases"]
    }
    results["intervals"] |= {
        "passed": interval(results),
        "by_category": {name: interval(tally) for name, tally in results["by_category"].items()},
    }
    times = [
        seconds for entry in details for seconds in (entry["trials"]["seconds"] if trials > 1 else [entry["seconds"]])
    ]
    results["latency"] = {"median": statistics.percentile(times, 0.5), "p95": statistics.percentile(times, 0.95)}
    spent = sum(entry["seconds"] for entry in details)
    results["output_tokens_per_second"] = (
        round(sum(entry["output_tokens"] for entry in details) / spent, 1) if spent else None
    )
    if trials > 1:
        passed = [sum(entry["trials"]["passed"]) for entry in details]
        results["trials"] = {
            "trials": trials,
            "attempts": trials * len(details),
            "passed": sum(passed),
        }
        results["pass_k"] = {str(k): round(statistics.pass_hat(passed, trials, k), 4) for k in range(1, trials + 1)}
    return results


def thoughts(answers: list[Answer]) -> dict:
    """How many answers thought, for how many tokens, and how many had nothing but a thought, by verdict."""
    tokens = [answer.thought_tokens for answer in answers if answer.thought is not None]
    why = [verdicts.thought_problem(answer) for answer in answers]
    return {
        "answers": len(tokens),
        "median_tokens": statistics.percentile(tokens, 0.5) if tokens else None,
        "p95_tokens": statistics.percentile(tokens, 0.95) if tokens else None,
        "ran_out": why.count(verdicts.RAN_OUT),
        "never_ended": why.count(verdicts.NEVER_ENDS),
        "nothing_else": why.count(verdicts.THOUGHT_ONLY),
    }


def interval(tally: dict) -> list:
    """95 % Wilson interval of the share of such cases that would pass."""
    return [round(end, 4) for end in statistics.wilson(tally["passed"], tally["cases"])]


def tally(entries: list, of: str = "cases") -> dict:
    """{"cases", "passed"} of entries that have "passed"; `of` names what an entry is."""
    return {of: len(entries), "passed": sum(entry["passed"] for entry in entries)}


def gate(results: dict, thresholds: dict | None) -> list:
    """Which gates the results fail, with numbers; `thresholds` has threshold and raw_threshold (cases to pass)."""
    return gates.missed(gates.evaluation(results, thresholds)) if thresholds else []


def summary(results: dict) -> str:
    """The compact log: one line per category, then each failed case with its first reason."""
    lines = [f"{name:<16} {tally['passed']:>3}/{tally['cases']}" for name, tally in results["by_category"].items()]
    low, high = results["intervals"]["passed"]
    lines.append(
        f"{'all':<16} {results['passed']:>3}/{results['cases']}  (95 %: {low:.1%} to {high:.1%})"
        f" in {results['seconds']} s, {results['text_tool_leaks']} leaks,"
        f" {results['no_tool']['false_positives']} false positives"
    )
    if results["raw"]:
        lines.append(f"{'raw':<16} {results['raw']['passed']:>3}/{results['raw']['cases']}")
    if "trials" in results:
        lines.append("pass^k           " + ", ".join(f"{k}: {share:.1%}" for k, share in results["pass_k"].items()))
    if (thought := results["thoughts"])["answers"]:
        lines.append(
            f"thoughts         in {thought['answers']} answers, median {thought['median_tokens']} tokens, 95 % within "
            f"{thought['p95_tokens']}; {thought['ran_out']} ran out of tokens, {thought['never_ended']} never ended, "
            f"{thought['nothing_else']} had nothing after it"
        )
    lines.append(
        f"latency          median {results['latency']['median']} s, 95 % within {results['latency']['p95']} s; "
        f"{results['infrastructure']['errors']} requests had to be repeated"
    )
    lines.append(f"{results['cached_tokens']} of {results['prompt_tokens']} prompt tokens came from the server's cache")
    for entry in results["details"]:
        if entry["why"]:
            lines.append(f"failed {entry['id']}: {one_line(entry['why'][0])}; it wrote {wrote(entry)}")
        elif entry["raw"] and entry["raw"]["why"]:
            lines.append(f"failed raw {entry['id']}: {one_line(entry['raw']['why'][0])}; it wrote {wrote(entry)}")
    return "\n".join(lines)


def wrote(entry: dict) -> str:
    """What the model wrote, raw where that is known, in one line."""
    text = entry["raw"]["text"] if entry["raw"] else entry["content"]
    calls = [f"{call['name']} {json.dumps(call['arguments'], ensure_ascii=False)}" for call in entry["calls"]]
    return one_line(text or " ".join(calls) or "nothing", LONGEST_SAID)


def one_line(text: str, most: int = 400) -> str:
    """A text without line breaks and control characters, cut after `most` characters."""
    plain = "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
    return plain if len(plain) <= most else plain[:most] + " …"
