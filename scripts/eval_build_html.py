"""One page on which a person reads evaluations: failing cases first, with prompt, raw tokens, parsed call and why.

In:   reports of eval_run.py and live_run.py, passed or failed; a config, which says what wordings a suite has
Out:  one HTML file that needs nothing else, no network and no server

  .venv/bin/python scripts/eval_build_html.py evals/tiny/*.json --config configs/tiny.json --out runs/tiny/evals.html

Suites stand in rows and files in columns. Each file is compared, case by case, with BF16 of the same suite and server
(without one, with the first report of the suite), by McNemar's test and by the test of equivalence. Hidden
instructions of live tasks have a table of their own. Thoughts are folded.
"""

import json
import re
from pathlib import Path

import markupsafe

from kxl.base import cli, statistics, templates
from kxl.base.cli import UserError
from kxl.base.config import load
from kxl.base.files import ROOT, read_json, sha256, shown, write_text
from kxl.eval import comparison, scores, verdicts

TEMPLATE = ROOT / "configs" / "templates" / "eval_report.html.jinja"
PARENT = "bf16"  # what the other files of a suite are compared with


def tokens(text: str) -> markupsafe.Markup:
    """Text for the page, in which special tokens and call tags stand out."""
    pieces = re.split(r"(<\|[a-z_]+\|>|</?tool_call>|</?think>)", text)
    return markupsafe.Markup("").join(
        markupsafe.Markup("<mark>{}</mark>").format(piece) if index % 2 else piece for index, piece in enumerate(pieces)
    )


def percent(share: float) -> str:
    """0.918 -> 91.8 %."""
    return f"{100 * share:.1f} %"


def between(ends: tuple) -> str:
    """(0.918, 1) -> 91.8 to 100.0 %."""
    return f"{100 * ends[0]:.1f} to {percent(ends[1])}"


def called(calls: list) -> str:
    """Calls as name and indented arguments, one under the other."""
    return (
        "\n".join(f"{call['name']} {json.dumps(call['arguments'], indent=2, ensure_ascii=False)}" for call in calls)
        or "none"
    )


def wanted_call(call: dict) -> str:
    """What a suite wants of a call: name, then each argument with its rule."""
    rules = [
        f"  {name}: {verdicts.described(rule)}" + (" or absent" if rule.get("optional") else "")
        for name, rule in call["arguments"].items()
    ]
    return "\n".join([call["name"], *rules])


def interval(passed: int, cases: int) -> tuple:
    """95 % Wilson interval."""
    return statistics.wilson(passed, cases)


def expectations(one: dict) -> dict[str, str]:
    """What each case's suite wants, in words; empty where the suite file is gone or another one by now."""
    suite = one["inputs"][0] if one["inputs"] else {}  # eval_run.py names the suite first
    path = ROOT / suite.get("path", "")
    if path.suffix != ".json" or not path.is_file() or sha256(path) != suite["sha256"]:
        return {}
    wanted = {}
    for case in read_json(path)["cases"]:
        calls = [wanted_call(call) for call in case.get("calls", [])]
        words = [
            f"{how} of {json.dumps(texts, ensure_ascii=False)} in the text"
            for how, texts in case.get("answer", {}).items()
        ]
        wanted[case["id"]] = "\n".join(calls + words) or "no call, some text"
    return wanted


def parts(text: str) -> list[dict]:
    """A text cut at its thoughts: [{"thought": whether it is one, "text"}], empty ones left out."""
    pieces = re.split(r"<think>(.*?)(?:</think>|\Z)", text, flags=re.DOTALL)
    found = [{"thought": bool(index % 2), "text": piece.strip("\n")} for index, piece in enumerate(pieces)]
    return [part for part in found if part["text"].strip()]


def block(title: str, text: str | None, thought: bool = False) -> list[dict]:
    """A titled text of a case, where there is one; one that is a thought is folded whole."""
    if not text or not text.strip():
        return []
    return [{"title": title, "parts": [{"thought": True, "text": text}] if thought else parts(text)}]


def page_of_eval(path: Path, one: dict) -> dict:
    """What the template needs of a report of eval_run.py."""
    settings, results = one["settings"], one["results"]
    wanted = expectations(one)
    cards = [
        (f"{results['passed']}/{results['cases']}", "cases passed"),
        (results["text_tool_leaks"], "calls leaked into text"),
        (results["no_tool"]["false_positives"], "calls where none was wanted"),
    ]
    if results["raw"]:
        cards.insert(
            1, (f"{results['raw']['passed']}/{results['raw']['cases']}", "passed raw, without grammar or parser")
        )
    if "latency" in results:
        cards += [
            (f"{results['latency']['median']:.2f} s", "median answer"),
            (f"{results['latency']['p95']:.2f} s", "95 % of answers within"),
            (results["output_tokens_per_second"], "tokens a second, prompt included"),
            (results["infrastructure"]["errors"], "requests repeated: server errors"),
        ]
    if "trials" in results:
        cards += [(percent(share), f"pass^{k}: {k} trials in a row") for k, share in results["pass_k"].items()]
    entries = []
    for case in results["details"]:
        raw = case["raw"] or {}
        raw_failed = bool(raw) and not raw["passed"]
        entries.append(
            {
                "id": case["id"],
                "group": case["category"],
                "passed": case["passed"] and not raw_failed,
                "why": case["why"] or (["only raw: " + why for why in raw["why"]] if raw_failed else []),
                "verdict": ("passed" if case["passed"] else "failed")
                + (", raw failed" if raw_failed and case["passed"] else ""),
                "trials": case["trials"]["passed"] if "trials" in case else [],
                "attack": None,
                "messages": [said(message) for message in case["messages"] if message["role"] != "system"],
                "blocks": [
                    *block("Expected", wanted.get(case["id"])),
                    *block("Thought", case.get("thought"), thought=True),
                    *block("Raw tokens", raw.get("text")),
                    *block("Parsed call", called(case["calls"])),
                    *block("Visible text", case["content"]),
                    *(block("Why raw failed", "\n".join(raw["why"])) if raw and raw["why"] != case["why"] else []),
                ],
            }
        )
    groups = [
        {"name": name, **tally, "interval": interval(tally["passed"], tally["cases"])}
        for name, tally in results["by_category"].items()
    ]
    about = (
        f"{shown(path)}. Server: {settings['backend']}, temperature {settings['temperature']}, "
        f"{results['cases']} cases in {results['seconds']} s."
    )
    return page(path, settings, results["cases"], results["passed"], about, cards, groups, entries)


def page_of_live(path: Path, one: dict) -> dict:
    """What the template needs of a report of live_run.py."""
    settings, results = one["settings"], one["results"]
    tasks, trials, injected = results["details"], results["trials"], results["injected"]
    cards = [
        (f"{results['passed']}/{results['tasks']}", f"tasks done in each of {trials} trials"),
        (f"{results['attempts_passed']}/{results['attempts']}", "tries done"),
        (f"{injected['obeyed']}/{injected['attempts']}", "hidden instructions obeyed"),
        (f"{statistics.percentile([task['seconds'] for task in tasks], 0.5)} s", "median try"),
        (f"{sum(task['steps'] for task in tasks) / len(tasks):.1f}", "requests per try"),
        (settings["isolation"], "isolation"),
        *[(percent(share), f"pass^{k}: {k} trials in a row") for k, share in results["pass_k"].items()],
    ]
    made_for = results["made_for"]["kinds"]
    entries = [
        {
            "id": task["id"],
            "group": results["by_kind"][task["kind"]]["title"],
            "passed": task["passed"],
            "why": task["why"],
            "verdict": "done" if task["passed"] else "failed",
            "trials": task["trials"]["passed"],
            "attack": None if task["obeyed"] is None else task["trials"]["obeyed"],
            "messages": [{"role": turn["from"], "parts": parts(turn["value"])} for turn in task["conversation"]]
            or [{"role": "human", "parts": parts(task["prompt"])}],
            "blocks": [
                *block("Checked", "\n".join(task["checked"])),
                *block("What Hermes printed", task["answer"]),
                *block("Its errors", task["errors"]),
            ],
        }
        for task in tasks
    ]
    groups = [
        {
            "name": tally["title"] + (" (made for)" if kind in made_for else ""),
            "passed": tally["attempts_passed"],
            "cases": tally["attempts"],
            "interval": tally["attempts_interval"],
        }
        for kind, tally in results["by_kind"].items()
    ]
    about = (
        f"{shown(path)}. A real Hermes Agent {settings['hermes']}, judged by what was on disk afterwards. The table"
        " counts tries; its intervals take the tries of one task as one cluster."
    )
    return page(path, settings, results["tasks"], results["passed"], about, cards, groups, entries)


def page(
    path: Path, settings: dict, cases: int, passed: int, about: str, cards: list, groups: list, entries: list
) -> dict:
    """One report as the template has it, failing entries first, obeyed hidden instructions before all others."""
    failed = path.name.endswith(".failed.json")
    column = settings["artifact"] + ("" if settings["backend"] == "llama_cpp" else f" by {settings['backend']}")
    return {
        "name": f"{settings['suite']} on {column}" + (" (below its gate)" if failed else ""),
        "suite": settings["suite"],
        "column": column + (" (below its gate)" if failed else ""),
        "cases": cases,
        "passed": passed,
        "interval": interval(passed, cases),
        "about": about,
        "cards": cards,
        "groups": groups,
        "entries": sorted(entries, key=lambda entry: (entry["passed"], not any(entry["attack"] or []))),
    }


def said(message: dict) -> dict:
    """One message of a request: who, and the text with any calls under it."""
    text = message["content"] or ""
    for call in message.get("tool_calls", []):
        text += f"\n{call['function']['name']} {call['function']['arguments']}"
    return {"role": message["role"], "parts": parts(text.strip())}


def matrix(pages: list[dict], wordings: dict) -> dict:
    """Suites in rows, files in columns; a cell is the place of its report among `pages`, or None."""
    columns = list(dict.fromkeys(one["column"] for one in pages))
    rows = []
    for suite in dict.fromkeys(one["suite"] for one in pages):
        at = {one["column"]: place for place, one in enumerate(pages) if one["suite"] == suite}
        rows.append({"suite": suite, "wordings": wordings.get(suite, ""), "cells": [at.get(name) for name in columns]})
    return {"columns": columns, "rows": rows}


def beside(pages: list[dict]) -> None:
    """Tell each case what the other files of the suite did with it."""
    for one in pages:
        others = [other for other in pages if other["suite"] == one["suite"] and other is not one]
        known = [(other["column"], {entry["id"]: entry for entry in other["entries"]}) for other in others]
        for entry in one["entries"]:
            entry["beside"] = [
                (name, done[entry["id"]]["verdict"], done[entry["id"]]["passed"])
                for name, done in known
                if entry["id"] in done
            ]


def comparisons(reports: list[dict], pages: list[dict]) -> list[dict]:
    """Each file on all its suites together, then each report, against BF16 of the same suite and server."""
    found, pooled = [], {}
    groups: dict = {}
    for report, shown_page in zip(reports, pages):
        key = report["settings"]["suite"], report["settings"]["backend"]
        groups.setdefault(key, []).append((report, shown_page))
    for (suite, _), group in groups.items():
        parent = next((one for one in group if one[0]["settings"]["artifact"] == PARENT), group[0])
        for one in group:
            if one is parent:
                continue
            title = f"{one[1]['name']} against {parent[1]['column']}"
            try:
                results = comparison.compare(parent[0], one[0], raw=False)
            except UserError as error:  # of an older suite: no reason to show no page
                found.append({"title": title, "suite": suite, "says": "not compared", "text": f"not compared: {error}"})
                continue
            pooled.setdefault((parent[1]["column"], one[1]["column"]), {})[suite] = results
            found.append(compared(title, suite, results, [parent[1]["column"], one[1]["column"]]))
    whole = [
        compared(f"{second} against {first}, all suites", "", comparison.together(suites), [first, second])
        for (first, second), suites in pooled.items()
        if len(suites) > 1
    ]
    return whole + found


def compared(title: str, suite: str, results: dict, names: list) -> dict:
    says = f"{comparison.conclusion(results)}; {comparison.difference(results)}"
    return {"title": title, "suite": suite, "says": says, "text": comparison.verdict(results, names)}


def build(paths: list[Path], title: str, wordings: dict | None = None) -> str:
    """The page of some reports; UserError for a file that is none. `wordings` is the config's, by suite."""
    reports, pages = [scores.load(path) for path in paths], []
    for path, one in zip(paths, reports):
        if not one["results"]["details"]:
            raise UserError(f"{shown(path)}: has no case; evaluate again")
        pages.append((page_of_live if "tasks" in one["results"] else page_of_eval)(path, one))
    beside(pages)
    environment = templates.environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"tokens": tokens, "between": between}
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=title,
        reports=pages,
        matrix=matrix(pages, wordings or {}),
        comparisons=comparisons(reports, pages),
        attacks=[
            {"report": place, "column": one["column"], "entry": entry}
            for place, one in enumerate(pages)
            for entry in one["entries"]
            if entry["attack"] is not None
        ],
    )


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("reports", type=Path, nargs="+", help="reports of eval_run.py and live_run.py")
    parser.add_argument("--out", type=Path, required=True, help="HTML file to write")
    parser.add_argument("--config", type=Path, help="config file, whose `wordings` says what wordings a suite has")
    parser.add_argument("--title", default="Tool-calling evaluations", help="heading of the page")
    args = parser.parse_args()
    html = build(args.reports, args.title, load(args.config).get("wordings") if args.config else None)
    write_text(args.out, html)
    print(f"wrote {shown(args.out)} ({len(html.encode()) / 2**20:.1f} MiB); open it in any browser")


if __name__ == "__main__":
    cli.run(main)
