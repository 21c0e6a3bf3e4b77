"""Prove that our verdicts on the Berkeley cases are those of the leaderboard's own checkers.

In:   the cases (bfcl_convert.py)
Out:  a report: how many answers were judged by both, how many verdicts were the same, each disagreement by its kind

  .venv/bin/python scripts/bfcl_agree.py --cases runs/bfcl/cases.jsonl --out reports/bench/bfcl_agreement.json

Each case is answered right and damaged in several ways (kxl/bfcl/answers.py), by seed. The wheel's checkers run as the
pinned wheel has them, in a box, with its own handler of OpenAI's protocol; calls are carried out there for both. Below
--least of agreement the report is written as NAME.failed.json, and the exit code is 2.
"""

import copy
import time
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from kxl.base import cli, report
from kxl.base.files import shown
from kxl.bfcl import answers, cases, conversation, place, verdicts
from kxl.setup import bfcl_env

BATCH = 50  # answers that the wheel judges for one order
CRASH = "crash: "


def arguments():
    parser = cli.parser(__doc__)
    parser.add_argument("--cases", type=Path, required=True, help="cases file")
    parser.add_argument("--out", type=Path, required=True, help="report file to write")
    parser.add_argument("--categories", nargs="+", default=["all"], help="categories or groups; all = every one")
    parser.add_argument("--damages", type=int, default=5, help="damaged answers of each case, drawn from all ways")
    parser.add_argument("--subset", type=int, help="at most so many cases of each category (default: all)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the subset and the damages")
    parser.add_argument("--least", type=float, default=0.999, help="share of equal verdicts that passes")
    parser.add_argument("--no-isolation", action="store_true", help="without a box: run the APIs with your own rights")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    wanted = list(cases.ALL) if args.categories == ["all"] else cases.named(args.categories)
    found = cases.subset(cases.load(args.cases, wanted), args.subset, args.seed)
    found = [case for case in found if cases.scored(case)]
    started = time.monotonic()
    with place.opened(not args.no_isolation) as apis:
        judged = [entry for entry in tqdm(compared(found, apis, args), desc="answers", unit="answer")]
    results = counted(judged)
    results["seconds"] = round(time.monotonic() - started)
    settings = {
        "categories": wanted,
        "damages": args.damages,
        "subset": args.subset,
        "seed": args.seed,
        "least": args.least,
        "isolation": "none" if args.no_isolation else "namespaces",
    }
    share = results["agree"] / results["answers"]
    report.write_gated(args.out, share >= args.least, [args.cases, bfcl_env.LOCK], settings, results)
    for kind, one in results["disagreements"].items():
        cli.say(f"{one['answers']} times: {kind}")
    if share < args.least:
        raise cli.UserError(
            f"{results['agree']} of {results['answers']} verdicts are the wheel's, {args.least:.1%} are wanted; every "
            f"kind of disagreement is in {shown(report.failed_path(args.out))}"
        )
    print(
        f"{results['agree']} of {results['answers']} verdicts in {results['categories']} categories are the wheel's "
        f"({share:.3%}); wrote {shown(args.out)}"
    )


def compared(found: list[dict], apis: place.Apis, args):
    """{"case", "category", "way", "ours", "wheel", "kind"} of each answer, as they are judged."""
    batch = []
    for case in found:
        for way, answer in answered(case, args):
            batch.append((case, way, answer))
            if len(batch) == BATCH:
                yield from both(batch, apis)
                batch = []
    yield from both(batch, apis)


def answered(case: dict, args):
    """(name of the way, answer) of the right answer and of some damaged ones."""
    right = answers.right(case)
    yield "right", right
    ways = list(answers.ways(case))
    answers.draw_for(case, answered, args.seed).shuffle(ways)
    taken = 0
    for way in ways:
        if taken == args.damages:
            return
        damaged = way(case, copy.deepcopy(right), answers.draw_for(case, way, args.seed))
        if damaged is not None:
            taken += 1
            yield way.__name__, damaged


def both(batch: list, apis: place.Apis):
    """Our verdict and the wheel's on each of some answers."""
    asked = [[case["category"], case["id"], answer] for case, _, answer in batch]
    for (case, way, answer), (passed, kind) in zip(batch, apis.order("wheel", answers=asked) if batch else []):
        yield {
            "case": case["id"],
            "category": case["category"],
            "way": way,
            "ours": ours(case, answer, apis),
            "wheel": passed,
            "kind": kind,
            "answer": answer,
        }


def ours(case: dict, answer, apis: place.Apis) -> str | None:
    if case["category"] in cases.GROUPS["memory"]:
        return verdicts.memory(case, answer)
    return (
        conversation.problem(case, answer, apis)
        if cases.executable(case["category"])
        else verdicts.single_turn(case, answer)
    )


def counted(judged: list[dict]) -> dict:
    """The results of the report."""
    same = [entry for entry in judged if (entry["ours"] is None) == entry["wheel"]]
    other = [entry for entry in judged if (entry["ours"] is None) != entry["wheel"]]
    kinds: dict[str, list] = {}
    for entry in other:
        side = "the wheel alone passes it" if entry["wheel"] else "only our judge passes it"
        kinds.setdefault(f"{side}: {entry['way']}, {entry['kind'] or entry['ours']}", []).append(entry)

    def tally(key: str) -> dict:
        return {
            name: {
                "answers": sum(entry[key] == name for entry in judged),
                "passed": sum(entry[key] == name and entry["wheel"] for entry in judged),
                "agree": sum(entry[key] == name for entry in same),
            }
            for name in sorted({entry[key] for entry in judged})
        }

    return {
        "answers": len(judged),
        "categories": len({entry["category"] for entry in judged}),
        "agree": len(same),
        "ways": len({entry["way"] for entry in judged} - {"right"}),
        "right_answers": tally("way").get("right"),
        # The data accepts nothing that its own checker lets pass, as where a required argument has no accepted value.
        "never_passed": [entry["case"] for entry in judged if entry["way"] == "right" and not entry["wheel"]],
        "by_category": tally("category"),
        "by_way": tally("way"),
        "wheel_errors": dict(Counter(str(entry["kind"]).split(":")[0] for entry in judged if entry["kind"])),
        "wheel_crashes": sum(str(entry["kind"]).startswith(CRASH) for entry in judged),
        "disagreements": {
            kind: {
                "answers": len(entries),
                "first": [{key: entry[key] for key in ("case", "ours", "kind", "answer")} for entry in entries[:3]],
            }
            for kind, entries in sorted(kinds.items())
        },
    }


if __name__ == "__main__":
    cli.run(main)
