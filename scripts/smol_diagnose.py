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
  over_calling            ordinary prompts are answered with calls
"""

from pathlib import Path
from typing import NamedTuple

from kxl.base import cli, report
from kxl.base.files import shown

FLAT = 0.10  # a loss that fell by a smaller share than this is flat
IMPROBABLE = 0.01  # median probability of the start token on tool prompts
OFTEN = 0.10  # share of the prompts from which on a failure is named


class Failure(NamedTuple):
    """A failure by its name, what was seen of it, and what to change."""

    name: str
    seen: str
    change: str


def diagnose(emission: dict, training: dict | None) -> list[Failure]:
    """The failures, the most basic first; `emission` and `training` are the reports' results."""
    after, ordinary = emission["after"], emission["ordinary"]
    verdicts, prompts = after["verdicts"], after["prompts"]
    failures = []

    def failed(name: str, seen: str, change: str) -> None:
        failures.append(Failure(name, seen, change))

    if training and (fall := 1 - min(training["valid_losses"]) / training["valid_losses"][0]) < FLAT:
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
            "offer more tools per row (MOST_TOOLS in kxl/smol/mixture.py) and more different tools",
        )
    if ordinary["false_calls"] > OFTEN / 2 * ordinary["prompts"]:
        failed(
            "over_calling",
            f"{ordinary['false_calls']} of {ordinary['prompts']} ordinary prompts called a tool",
            "lower data.tool_share (0.6), and add ordinary rows beside tools that do not help",
        )
    return failures


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--emission", type=Path, required=True, metavar="FILE", help="report of scripts/smol_evaluate.py"
    )
    parser.add_argument("--training", type=Path, metavar="FILE", help="report of scripts/train_lora.py")
    args = parser.parse_args()

    failed = report.failed_path(args.emission)
    path = args.emission if args.emission.exists() or not failed.exists() else failed
    results = report.results(path)
    if "after" not in results:
        raise cli.UserError(
            f"{shown(path)}: is a measurement of one model; give the report that compares before and after"
        )
    failures = diagnose(results, report.results(args.training) if args.training else None)
    for failure in failures:
        print(f"{failure.name}: {failure.seen}. {failure.change}.")
    if not failures:
        print("no failure")


if __name__ == "__main__":
    cli.run(main)
