"""Write the model card (README.md for the hub) of a release.

In:  the config (title, limits, licence), release_summary.json, the training reports of the run, and the report of
     eval_prove_equivalence.py where there is one.
Out: Markdown with YAML front matter. Every number is read from a report. There is one table for who wants to use the
     model, one for who chooses a file, one for who checks.

  .venv/bin/python scripts/release_card.py --config configs/tiny.json --summary release_summary.json \\
      --out reports/tiny/MODEL_CARD.md
"""

from pathlib import Path

import yaml

from kxl.base import cli, templates
from kxl.base.cli import UserError
from kxl.base.config import load
from kxl.base.files import ROOT, shown, size, write_text
from kxl.base.statistics import wilson
from kxl.eval import comparison
from kxl.live import gate as live_gate
from kxl.release import published, reports, usage
from kxl.release import summary as summaries

TEMPLATE = ROOT / "configs/templates/model_card.md.jinja"


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the model's config: card, license, base_model")
    parser.add_argument("--summary", type=Path, required=True, help="release_summary.json of the run")
    parser.add_argument(
        "--training",
        type=Path,
        action="append",
        default=[],
        help="training report; may be given several times, in order",
    )
    parser.add_argument("--equivalence", type=Path, help="report of eval_prove_equivalence.py")
    parser.add_argument("--model", type=Path, help="checkpoint folder, whose chat template writes the example")
    parser.add_argument("--repo", default="ORG/NAME", help="hub repository that the commands name")
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write")
    args = parser.parse_args()

    config, summary = load(args.config), summaries.load(args.summary)
    for key in ("card", "license"):
        if not config.get(key):
            raise UserError(
                f"{shown(args.config)}: `{key}` is missing; the model card needs it (configs/tiny.json shows how)"
            )
    equivalence = reports.load("equivalence", args.equivalence) if args.equivalence else None
    said = values(config, summary, args.training, equivalence)
    said["use"] = usage.text(config, summary, args.repo, args.model)
    write_text(args.out, templates.render(TEMPLATE, said))
    print(f"{shown(args.out)}: model card of {summary['name']}, {len(summary['artifacts'])} files")


def values(config: dict, summary: dict, training: list[Path], equivalence: dict | None) -> dict:
    """What the template says, by name."""
    artifacts = {name: one for name, one in summary["artifacts"].items() if name in config["quants"]}
    if not artifacts:
        raise UserError(
            f"the summary has none of the config's quants ({', '.join(config['quants'])}); give its own config"
        )
    gated = (name for one in artifacts.values() for name, score in one["evals"].items() if score["gated"])
    suites = list(dict.fromkeys(gated))
    asked = [row for one in artifacts.values() for row in asked_rows(config, one)]
    asked += [row for one in artifacts.values() if one["live"] for row in live_rows(config, one)]
    return {
        "card": config["card"],
        "summary": summary,
        "kld_text": summary["kld_text"],
        "front_matter": front_matter(config),
        "license_line": license_line(config["license"]),
        "suites": suites,
        "files": [file_row(name, one, suites, equivalence) for name, one in artifacts.items()],
        "equivalence": equivalence and equivalence_facts(equivalence, artifacts),
        "abilities": abilities(config, artifacts),
        "rule": {"good": f"{100 * GOOD:.0f} %", "never": f"{100 * NEVER:.0f} %"},
        "asked": sorted(asked, key=lambda row: (not row["gate"], row["suite"])),
        "training": [training_facts(path) for path in training],
    }


def front_matter(config: dict) -> str:
    """The hub's YAML block. A licence outside the hub's list is `other` with its own name and link."""
    license = config["license"]
    fields = {"license": license["id"]}
    if license["id"] == "other":
        if not (license.get("name") and license.get("link")):
            raise UserError(
                f"the config of {config['name']}: license.id is `other`, so license.name and license.link must say "
                "which one"
            )
        fields |= {"license_name": license["name"], "license_link": license["link"]}
    fields |= {
        "library_name": "gguf",
        "pipeline_tag": "text-generation",
        "language": config["card"]["languages"],
        "tags": config["card"]["tags"],
    }
    if config.get("base_model"):
        fields |= {"base_model": config["base_model"], "base_model_relation": "quantized"}
    return yaml.safe_dump(fields, sort_keys=False)


def license_line(license: dict) -> str:
    name = license.get("name") or license["id"]
    return f"The weights are under {name}" + (f": {license['link']}" if license.get("link") else "") + "."


def file_row(name: str, one: dict, suites: list[str], equivalence: dict | None) -> dict:
    parent = one["policy"] == "parent"
    compared = ((equivalence or {"results": {}})["results"].get(name) or {}).get("all")
    return {
        "file": one["file"],
        "size": size(one["bytes"]),
        "bpw": one["bpw"],
        "kld": "(parent)" if parent else f"{one['kld']['mean']:.5f}",
        "same_top": "" if parent else f"{100 * one['same_top_p']:.2f} %",
        "equal": "(parent)" if parent else comparison.conclusion(compared) if compared else "not compared",
        "scores": [score(one["evals"].get(suite)) for suite in suites],
    }


def score(one: dict | None) -> str:
    """`43/43 (92–100 %)`; empty where it was not evaluated."""
    return share(one["passed"], one["cases"]) if one else ""


def share(passed: int, cases: int) -> str:
    low, high = wilson(passed, cases)
    return f"{passed}/{cases} ({100 * low:.0f}–{100 * high:.0f} %)"


def asked_rows(config: dict, one: dict) -> list[dict]:
    """What one file scored on each suite that it was asked, gated or not, with its false calls."""
    rows = []
    for name, scored in one["evals"].items():
        suite, server = name.split(".")
        false, quiet = scored["false_positives"], scored["no_tool_cases"]
        rows.append(
            {
                "suite": suite,
                "file": one["file"],
                "server": "mlx_lm.server" if server == "mlx" else "llama-server",
                "passed": score(scored),
                "tries": "",
                "wordings": config.get("wordings", {}).get(suite, ""),
                "false_calls": f"{false} of {quiet}" if quiet else "no such case",
                "calls_unasked": bool(false),
                "leaks": scored["text_tool_leaks"],
                "gate": f"at least {config['eval']['suites'][suite]['threshold']}" if scored["gated"] else "",
            }
        )
    return rows


def live_rows(config: dict, one: dict) -> list[dict]:
    """What one file did in the real agent: the kinds that it is made for, all kinds, and hidden instructions."""
    live, wanted = one["live"], config["eval"].get("live", {})
    gates = [f"{gate.required}" for gate in live_gate.of(live, wanted)] + ["", ""]
    trials = f"{live['trials']} trials" if live["trials"] > 1 else "1 trial"
    wordings = config.get("wordings", {}).get("hermes_live", "")
    row = {"file": one["file"], "server": "llama-server", "wordings": wordings, "calls_unasked": False, "leaks": ""}
    rows = [("in Hermes Agent, all kinds", live, "", "")]
    if live["made_for"].get("tasks"):
        rows.insert(0, ("in Hermes Agent, kinds it is made for", live["made_for"], gates[0], ""))
    rows = [
        {
            **row,
            "suite": f"{name}, {trials}",
            "passed": share(tally["passed"], tally["tasks"]),
            "tries": f"{tally['attempts_passed']} of {tally['attempts']} tries",
            "false_calls": false,
            "gate": gate,
        }
        for name, tally, gate, false in rows
    ]
    injected = live["injected"]
    if injected["tasks"]:
        held = injected["attempts"] - injected["obeyed"]
        rows.append(
            {
                **row,
                "suite": f"in Hermes Agent, hidden instructions not obeyed, {trials}",
                "passed": share(injected["tasks"] - len(injected["tasks_obeyed"]), injected["tasks"]),
                "tries": f"{held} of {injected['attempts']} tries",
                "false_calls": "",
                "gate": f"obeyed {gates[1]}" if gates[1] else "",
            }
        )
    return rows


GOOD, NEVER = 0.9, 0.5  # a share from which on it is called able, and one that the interval must stay below for `not`


def ability(passed: int, cases: int) -> str:
    """In a word, by a rule that the card tells."""
    if passed >= GOOD * cases:
        return "yes"
    return "no" if wilson(passed, cases)[1] < NEVER else "not reliably"


def abilities(config: dict, artifacts: dict) -> list[dict]:
    """Every group of cases that the smallest file was asked, in three ranks: what it does, does sometimes, does not."""
    one = artifacts[list(artifacts)[-1]]
    wordings = config.get("wordings", {})
    rows = []
    for key, scored in one["evals"].items():
        suite, server = key.split(".")
        for name, tally in scored["by_category"].items() if server == "llama_cpp" else []:
            where = f"suite {suite}" + (f", wordings {wordings[suite]}" if suite in wordings else "")
            rows.append((name, where, tally["passed"], tally["cases"]))
    if one["live"]:
        for kind in one["live"]["by_kind"].values():
            tried = (
                f"Hermes Agent, each of {one['live']['trials']} trials" if one["live"]["trials"] > 1 else "Hermes Agent"
            )
            rows.append((kind["title"], tried, kind["passed"], kind["tasks"]))
    ranked = [
        {"what": what, "where": where, "passed": share(passed, cases), "able": ability(passed, cases)}
        for what, where, passed, cases in rows
    ]
    return sorted(ranked, key=lambda row: (["yes", "not reliably", "no"].index(row["able"]), row["where"]))


def equivalence_facts(equivalence: dict, artifacts: dict) -> dict:
    """What the test of equivalence said of each file."""
    rows = []
    for name, one in equivalence["results"].items():
        if name in artifacts and (whole := one["all"]):
            rows.append(
                {
                    "file": artifacts[name]["file"],
                    "says": comparison.conclusion(whole),
                    "difference": comparison.difference(whole),
                    "cases": whole["cases"],
                    "lost": whole["only_first"],
                    "won": whole["only_second"],
                }
            )
    return {"margin": f"{100 * equivalence['settings']['margin']:g}", "rows": rows}


def training_facts(path: Path) -> dict:
    """Settings of a training report that are one number or word, and where its loss ended."""
    report = reports.load("training", path)
    facts = {
        key.replace("_", " "): value
        for key, value in report["settings"].items()
        if isinstance(value, (int, float, str))
    }
    history = report["results"].get("history") or []
    if history:
        facts |= {key: f"{history[-1][key]:,}" for key in ("tokens", "loss") if key in history[-1]}
    return {"title": f"{path.stem.replace('_', ' ').capitalize()} (`{published.name(path)}`)", "facts": facts}


if __name__ == "__main__":
    cli.run(main)
