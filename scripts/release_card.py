"""Write the model card (README.md for the hub) of a release.

In:  the config (title, limits, licence), release_summary.json, the training reports of the run.
Out: Markdown with YAML front matter. Every number is read from a report.

  .venv/bin/python scripts/release_card.py --config configs/tiny.json --summary release_summary.json \\
      --out reports/tiny/MODEL_CARD.md
"""

from pathlib import Path

import jinja2
import yaml

from kxl.base import cli
from kxl.base.cli import UserError
from kxl.base.files import ROOT, read_json, shown, size, write_text
from kxl.base.statistics import wilson
from kxl.release import published, usage

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
    parser.add_argument("--model", type=Path, help="checkpoint folder, whose chat template writes the example")
    parser.add_argument("--repo", default="ORG/NAME", help="hub repository that the commands name")
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write")
    args = parser.parse_args()

    config, summary = read_json(args.config), read_json(args.summary)
    for key in ("card", "license"):
        if not config.get(key):
            raise UserError(
                f"{shown(args.config)}: `{key}` is missing; the model card needs it (configs/tiny.json shows how)"
            )
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True)
    write_text(
        args.out,
        environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
            use=usage.text(config, summary, args.repo, args.model), **values(config, summary, args.training)
        ),
    )
    print(f"{shown(args.out)}: model card of {summary['name']}, {len(summary['artifacts'])} files")


def values(config: dict, summary: dict, training: list[Path]) -> dict:
    """What the template says, by name."""
    artifacts = {name: one for name, one in summary["artifacts"].items() if name in config["quants"]}
    gated = (name for one in artifacts.values() for name, score in one["evals"].items() if score["gated"])
    suites = list(dict.fromkeys(gated))
    asked = [row for one in artifacts.values() for row in asked_rows(config, one)]
    return {
        "card": config["card"],
        "summary": summary,
        "kld_text": summary["kld_text"],
        "front_matter": front_matter(config),
        "license_line": license_line(config["license"]),
        "suites": suites,
        "files": [file_row(one, suites) for one in artifacts.values()],
        "asked": sorted(asked, key=lambda row: (not row["gate"], row["suite"])),
        "live": [live_row(config, one) for one in artifacts.values() if one["live"]],
        "by_category": categories(config, summary),
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


def file_row(one: dict, suites: list[str]) -> dict:
    parent = one["policy"] == "parent"
    return {
        "file": one["file"],
        "size": size(one["bytes"]),
        "bpw": one["bpw"],
        "kld": "(parent)" if parent else f"{one['kld']['mean']:.5f}",
        "same_top": "" if parent else f"{100 * one['same_top_p']:.2f} %",
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
                "false_calls": f"{false} of {quiet}" if quiet else "no such case",
                "calls_unasked": bool(false),
                "leaks": scored["text_tool_leaks"],
                "gate": f"at least {config['eval']['suites'][suite]['threshold']}" if scored["gated"] else "",
            }
        )
    return rows


def live_row(config: dict, one: dict) -> dict:
    """What one file did in the real agent."""
    live, threshold = one["live"], config["eval"].get("live", {}).get("threshold")
    by_calls = ", ".join(f"{number}: {tally['passed']}/{tally['tasks']}" for number, tally in live["by_calls"].items())
    return {
        "file": one["file"],
        "done": share(live["passed"], live["tasks"]),
        "by_calls": by_calls,
        "gate": f"at least {threshold}" if threshold else "none",
    }


def categories(config: dict, summary: dict) -> dict | None:
    """Categories of the last quant (the smallest) in the config's first suite."""
    name, suite = config["quants"][-1], next(iter(config["eval"]["suites"]))
    for key, one in summary["artifacts"][name]["evals"].items():
        if key.split(".")[0] == suite:
            return {"artifact": summary["artifacts"][name]["file"], "suite": suite, "categories": one["by_category"]}
    return None


def training_facts(path: Path) -> dict:
    """Settings of a training report that are one number or word, and where its loss ended."""
    report = read_json(path)
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
