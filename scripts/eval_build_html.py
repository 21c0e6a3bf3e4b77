"""One page on which a person reads evaluations: failing cases first, with prompt, raw tokens, parsed call and why.

In:   reports of eval_run.py and live_run.py, passed or failed
Out:  one HTML file that needs nothing else, no network and no server

  .venv/bin/python scripts/eval_build_html.py evals/tiny/fixed_hermes_43.llama_cpp.q4kxl.json --out runs/tiny/evals.html

Two reports of one suite that stand side by side on the command line are also compared case by case.
"""

import itertools
import json
import re
from pathlib import Path

import jinja2
import markupsafe

from kxl.base import cli, statistics
from kxl.base.cli import UserError
from kxl.base.files import ROOT, read_json, sha256, shown, write_text
from kxl.eval import comparison, verdicts

TEMPLATE = ROOT / "configs" / "templates" / "eval_report.html.jinja"


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
        blocks = [
            ("Expected", wanted.get(case["id"])),
            ("Raw tokens", case["raw"] and case["raw"]["text"]),
            ("Parsed call", called(case["calls"])),
            ("Visible text", case["content"]),
            ("Why raw failed", case["raw"] and case["raw"]["why"] != case["why"] and "\n".join(case["raw"]["why"])),
        ]
        raw_failed = case["raw"] and not case["raw"]["passed"]
        verdict = "passed" if case["passed"] else "failed"
        if "trials" in case:
            verdict += f" ({sum(case['trials']['passed'])} of {len(case['trials']['passed'])} trials)"
        entries.append(
            {
                "id": case["id"],
                "group": case["category"],
                "passed": case["passed"] and not raw_failed,
                "why": case["why"] or (["only raw: " + why for why in case["raw"]["why"]] if raw_failed else []),
                "verdict": verdict + (", raw failed" if raw_failed and case["passed"] else ""),
                "messages": [said(message) for message in case["messages"] if message["role"] != "system"],
                "blocks": [{"title": title, "text": text} for title, text in blocks if text],
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
    name = f"{settings['suite']} on {settings['artifact']}" + (
        "" if settings["backend"] == "llama_cpp" else f" by {settings['backend']}"
    )
    return page(path, name, results["cases"], results["passed"], about, cards, groups, entries)


def page_of_live(path: Path, one: dict) -> dict:
    """What the template needs of a report of live_run.py."""
    settings, results = one["settings"], one["results"]
    tasks = results["details"]
    cards = [
        (f"{results['passed']}/{results['tasks']}", "tasks done"),
        (f"{statistics.percentile([task['seconds'] for task in tasks], 0.5)} s", "median task"),
        (f"{sum(task['steps'] for task in tasks) / len(tasks):.1f}", "requests per task"),
        (settings["isolation"], "isolation"),
    ]
    entries = [
        {
            "id": task["id"],
            "group": f"{task['calls']} call{'s' if task['calls'] > 1 else ''} in a row",
            "passed": task["passed"],
            "why": task["why"],
            "verdict": "done" if task["passed"] else "failed",
            "messages": [{"role": turn["from"], "text": turn["value"]} for turn in task["conversation"]]
            or [{"role": "human", "text": task["prompt"]}],
            "blocks": [
                {"title": title, "text": text}
                for title, text in (
                    ("Checked", "\n".join(task["checked"])),
                    ("What Hermes printed", task["answer"]),
                    ("Its errors", task["errors"]),
                )
                if text.strip()
            ],
        }
        for task in tasks
    ]
    groups = [
        {
            "name": f"{calls} in a row",
            "passed": tally["passed"],
            "cases": tally["tasks"],
            "interval": interval(tally["passed"], tally["tasks"]),
        }
        for calls, tally in results["by_calls"].items()
    ]
    about = f"{shown(path)}. A real Hermes Agent {settings['hermes']}, judged by what was on disk afterwards."
    return page(
        path,
        f"live Hermes on {settings['artifact']}",
        results["tasks"],
        results["passed"],
        about,
        cards,
        groups,
        entries,
    )


def page(path: Path, name: str, cases: int, passed: int, about: str, cards: list, groups: list, entries: list) -> dict:
    """One report as the template has it, failing entries first."""
    name += " (below its gate)" if path.name.endswith(".failed.json") else ""
    return {
        "name": name,
        "cases": cases,
        "passed": passed,
        "interval": interval(passed, cases),
        "about": about,
        "cards": cards,
        "groups": groups,
        "entries": sorted(entries, key=lambda entry: entry["passed"]),
    }


def said(message: dict) -> dict:
    """One message of a request: who, and the text with any calls under it."""
    text = message["content"] or ""
    for call in message.get("tool_calls", []):
        text += f"\n{call['function']['name']} {call['function']['arguments']}"
    return {"role": message["role"], "text": text.strip()}


def build(paths: list[Path], title: str) -> str:
    """The page of some reports; UserError for a file that is none."""
    reports, pages = [read_json(path) for path in paths], []
    for path, one in zip(paths, reports):
        if not isinstance(one, dict) or "details" not in one.get("results", {}):
            raise UserError(f"{shown(path)}: neither a report of eval_run.py nor of live_run.py")
        pages.append((page_of_live if "tasks" in one["results"] else page_of_eval)(path, one))
    comparisons = []
    for first, second in itertools.pairwise(range(len(reports))):
        pair, names = (reports[first], reports[second]), [pages[first]["name"], pages[second]["name"]]
        if (
            all("suite" in one["settings"] for one in pair)
            and pair[0]["settings"]["suite"] == pair[1]["settings"]["suite"]
        ):
            try:
                text = comparison.verdict(comparison.compare(*pair, raw=False), names)
            except UserError as error:  # of an older suite: no reason to show no page
                text = f"not compared: {error}"
            comparisons.append({"title": f"{names[0]} against {names[1]}", "text": text})
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"tokens": tokens, "between": between}
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=title, reports=pages, comparisons=comparisons
    )


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("reports", type=Path, nargs="+", help="reports of eval_run.py and live_run.py")
    parser.add_argument("--out", type=Path, required=True, help="HTML file to write")
    parser.add_argument("--title", default="Tool-calling evaluations", help="heading of the page")
    args = parser.parse_args()
    html = build(args.reports, args.title)
    write_text(args.out, html)
    print(f"wrote {shown(args.out)} ({len(html.encode()) / 2**20:.1f} MiB); open it in any browser")


if __name__ == "__main__":
    cli.run(main)
