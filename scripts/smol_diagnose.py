"""Say which failure a tool-token training ended in, and what to change.

In:  the report of scripts/smol_evaluate.py (NAME.json or NAME.failed.json) and that of scripts/train_lora.py.
Out: one line per failure found, the most basic first; "no failure" when there is none.

  .venv/bin/python scripts/smol_diagnose.py --emission reports/smollm2-135m/emission.json \\
      --training reports/smollm2-135m/training.json

  flat_loss               the training loss did not fall: nothing was learned
  embedding_not_adapted   loss fell, but the start token stays improbable: its row of the tied embedding did not move
  endless_thought         it was still thinking when its tokens were used up
  only_thought            a thought, and nothing after it
  code_dump               the start token is learned in part; programs or calls as text come out instead
  broken_json             calls begin and do not hold together
  wrong_tool              whole calls of the wrong tool
  wrong_arguments         calls of the right tool with arguments that are not accepted
  names_not_read          under random names far fewer right tools: names were learned, descriptions were not
  over_calling            prompts that no tool fits, or ordinary ones, are answered with calls; which, and how often
  under_calling           prompts that a tool fits get no start token
"""

from pathlib import Path
from typing import NamedTuple

from kxl.base import cli, report
from kxl.base.files import shown
from kxl.release import reports

FLAT = 0.10  # a loss that fell by a smaller share than this is flat
IMPROBABLE = 0.01  # median probability of the start token on tool prompts
OFTEN = 0.10  # share of the prompts from which on a failure is named
SELDOM = {"restraint": 0.05, "ordinary": 0.01}  # share of the prompts up to which false calls are no failure
# What the training lacks when a kind of prompt is answered with calls.
ADD = {
    "near_miss": "add requests that look fitting and that no tool serves (near in datasets/smol/domains;"
    " data.recorded.near and absent in the config), and groups of our domains (data.own_groups)",
    "irrelevance": "record more of BFCL's questions beside tools that do not help (data.recorded.irrelevance), and"
    " raise BESIDE in kxl/smol/mixture.py",
    "live_irrelevance": "record more of BFCL's live questions (data.recorded.live_irrelevance), and raise BESIDE in"
    " kxl/smol/mixture.py",
    "ordinary": "add ordinary questions beside tools (data.recorded.ordinary), or lower data.tool_share (0.6)",
}


class Failure(NamedTuple):
    """A failure by its name, what was seen of it, and what to change."""

    name: str
    seen: str
    change: str


def diagnose(emission: dict, training: dict | None) -> list[Failure]:
    """The failures, the most basic first; `emission` and `training` are the reports' results."""
    after = emission["test"]
    verdicts, prompts = after["verdicts"], after["prompts"]
    failures = []

    def failed(name: str, seen: str, change: str) -> None:
        failures.append(Failure(name, seen, change))

    if training and (fall := fallen(training["valid_losses"])) < FLAT:
        failed(
            "flat_loss",
            f"the validation loss fell by {fall:.0%} only",
            "raise learning_rate (up to 5e-4) or rank, and look at the loss mask: "
            "the manifest's loss_tokens must not be near 0",
        )
    elif (probability := after["median_start_probability"]) < IMPROBABLE:
        failed(
            "embedding_not_adapted",
            f"the start token's probability is {probability:.1e} in the median although the loss fell",
            "set lora.embedding to low_rank or token_rows, and check with scripts/smol_inspect.py "
            "that the trained id is the config's",
        )
    if (endless := verdicts.get("endless_thought", 0)) > OFTEN * prompts:
        failed(
            "endless_thought",
            f"{endless} of {prompts} prompts were still being thought about at the last token",
            "raise emission.max_tokens; if thoughts run in circles, train rows with short thoughts or none",
        )
    if (alone := verdicts.get("only_thought", 0)) > OFTEN * prompts:
        failed(
            "only_thought",
            f"{alone} of {prompts} answers are nothing but a thought",
            "train rows whose call follows the thought in the same turn, and look that the loss mask covers both",
        )
    if (dumps := verdicts.get("code_dump", 0)) > OFTEN * prompts:
        failed(
            "code_dump",
            f"{dumps} of {prompts} prompts were answered with code",
            "add tool rows whose arguments hold code (write a file, run a program), or train longer",
        )
    if (broken := verdicts.get("broken_json", 0) + verdicts.get("unclosed", 0)) > OFTEN * prompts:
        failed(
            "broken_json",
            f"{broken} of {prompts} calls are not valid JSON up to the end token",
            "train another epoch; if most are unclosed, raise emission.max_tokens "
            "or leave out rows with very long arguments",
        )
    if (wrong := after["start_json_end"] - after["right_tool"]) > OFTEN * prompts:
        failed(
            "wrong_tool",
            f"{wrong} of {prompts} whole calls are not of the expected tool",
            "add domains and groups (datasets/smol/domains, data.own_groups), or train longer",
        )
    if (wrong := after["right_tool"] - after["right_arguments"]) > OFTEN * prompts:
        failed(
            "wrong_arguments",
            f"{wrong} of {prompts} calls of the right tool have other arguments than those accepted",
            "add tools with arguments of those types, larger pools of values, and train longer",
        )
    masked = emission["masked_names"]
    if masked["prompts"] and after["right_tool"] / prompts - masked["right_tool"] / masked["prompts"] > OFTEN / 2:
        failed(
            "names_not_read",
            f"under random names {masked['right_tool']} of {masked['prompts']} get the right tool,"
            f" {after['right_tool']} of {prompts} under their own",
            "raise data.masked_share (0.5)",
        )
    for part, seldom in SELDOM.items():
        said = emission[part]
        if said["false_calls"] > seldom * said["prompts"]:
            kinds = {kind: of["false_calls"] / of["prompts"] for kind, of in said["by_kind"].items()}
            worst = max(kinds, key=lambda kind: (kinds[kind], kind))
            rates = ", ".join(f"{kind} {rate:.1%}" for kind, rate in kinds.items())
            failed(
                "over_calling",
                f"{said['false_calls']} of {said['prompts']} {part} prompts"
                f" ({said['false_calls'] / said['prompts']:.1%}) called a tool, by kind: {rates}",
                ADD[worst],
            )
    if (silent := prompts - after["emitting"]) > OFTEN * prompts:
        failed(
            "under_calling",
            f"{silent} of {prompts} tool prompts ({silent / prompts:.1%}) got no start token",
            "raise data.tool_share, or train longer: restraint was learned before the calls were",
        )
    return failures


def fallen(losses: list[float]) -> float:
    """The share by which a loss fell at most."""
    return 1 - min(losses) / losses[0] if losses[0] else 0.0


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--emission", type=Path, required=True, metavar="FILE", help="report of scripts/smol_evaluate.py"
    )
    parser.add_argument("--training", type=Path, metavar="FILE", help="report of scripts/train_lora.py")
    args = parser.parse_args()

    failed = report.failed_path(args.emission)
    path = args.emission if args.emission.exists() or not failed.exists() else failed
    results = reports.load("emission", path)["results"]
    if "forgetting" not in results:
        raise cli.UserError(
            f"{shown(path)}: is a measurement of one model; give the report that compares before and after"
        )
    for part in ("test", *SELDOM):
        counted = [results[part], *results[part].get("by_kind", {}).values()]
        if any(one["prompts"] < 1 for one in counted):
            raise cli.UserError(f"{shown(path)}: results.{part} has no prompts; measure again")
    failures = diagnose(results, reports.load("lora", args.training)["results"] if args.training else None)
    for failure in failures:
        print(f"{failure.name}: {failure.seen}. {failure.change}.")
    if not failures:
        print("no failure")


if __name__ == "__main__":
    cli.run(main)
