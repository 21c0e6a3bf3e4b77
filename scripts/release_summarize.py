"""Gather a run's reports into release_summary.json, and refuse when a gate failed.

In:  the config and the reports of one run: quants, imatrix, parity, every evaluation and live run, and the predicted
     sizes. Nothing is measured here.
Out: release_summary.json for machines: what each artifact is (file, bytes, sha256, policy), what it lost,
     what it scored, and every gate with its limit and its number.

All reports must speak of the same files: an evaluation, imatrix or parity report of another build of
a GGUF than the one in the quants report fails its gate, and so does an evaluation on MLX of another
checkpoint than the one in the parity report. When a gate fails nothing is written, the
failures are listed and the exit code is 2. A suite that the config does not name is no gate; what it scored
is in the summary all the same.

  python scripts/release_summarize.py --config configs/tiny.json --quants reports/tiny/quants.json \\
      --imatrix reports/tiny/imatrix.json --parity reports/tiny/parity.json --sizes reports/lfm2.5-8b-a1b/sizes.json \\
      --eval evals/tiny/fixed_hermes_43.llama_cpp.bf16.json ... --out release_summary.json
"""

import subprocess
from pathlib import Path

from kxl.base import cli
from kxl.base.cli import UserError
from kxl.base.config import load
from kxl.base.files import ROOT, sha256, shown, write_json
from kxl.base.gates import Gate
from kxl.base.gates import evaluation as evaluation_gates
from kxl.eval import scores
from kxl.live import gate as live_gate
from kxl.release import published, reports

SINGLE = ("quants", "imatrix", "parity", "sizes")
SERVERS = ("llama_cpp", "mlx")  # ours; of others nobody knows which file they served
LIVE = "hermes_live"  # the suite of a live run
LIVE_RESULTS = (
    "tasks",
    "passed",
    "interval",
    "trials",
    "attempts",
    "attempts_passed",
    "attempts_interval",
    "pass_k",
    "made_for",
    "injected",
    "by_kind",
)
# What an artifact depends on besides its reports.
MADE_FROM = ("third_party/*.lock", "patches/*.patch", "gguf/*", "configs/templates/*")


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the model's config: artifacts, suites, thresholds")
    parser.add_argument("--quants", type=Path, required=True, help="report of quant_measure.py")
    parser.add_argument("--imatrix", type=Path, required=True, help="report of quant_compute_imatrix.py")
    parser.add_argument("--parity", type=Path, required=True, help="report of quant_check_parity.py")
    parser.add_argument("--sizes", type=Path, required=True, help="report of quant_predict_sizes.py")
    parser.add_argument(
        "--eval",
        type=Path,
        action="append",
        required=True,
        help="report of eval_run.py or live_run.py; give every one of the run, gated or not",
    )
    parser.add_argument(
        "--training",
        type=Path,
        action="append",
        default=[],
        help="training report of the checkpoint, for its seed; may be given several times",
    )
    parser.add_argument("--run", required=True, help="name of the run, as it stands in the artifacts' general.version")
    parser.add_argument("--out", type=Path, required=True, help="summary to write (JSON)")
    args = parser.parse_args()

    config = load(args.config)
    if not (config.get("license") or {}).get("id"):
        raise UserError(
            f"{shown(args.config)}: license.id is missing; a release must say under which licence its weights are"
        )
    given = {name: reports.load(name, getattr(args, name)) for name in SINGLE}
    evals, live = evaluations(args.eval)
    gates = [
        *file_gates(given, [*evals, *live]),
        *parity_gates(given["parity"]),
        *imatrix_gates(config, given["imatrix"]),
        *eval_gates(config, evals),
        *live_gates(config, live),
        *size_gates(given["sizes"]),
    ]
    if failed := [gate for gate in gates if not gate["passed"]]:
        lines = "\n".join(f"  {gate['gate']}: {gate['measured']}, required {gate['required']}" for gate in failed)
        raise UserError(f"no release, {len(failed)} of {len(gates)} gates failed:\n{lines}")
    sources = [args.config, *(getattr(args, name) for name in SINGLE), *args.eval, *args.training]
    write_json(
        args.out,
        {
            **{key: config[key] for key in ("name", "architecture", "license", "base_model")},
            "run": args.run,
            "serving": serving(config),
            "artifacts": artifacts(config, given["quants"]["results"], evals, live),
            "gates": gates,
            "imatrix": {key: given["imatrix"]["results"][key] for key in ("tokens", "fewest_tokens")},
            "kld_text": given["quants"]["settings"],
            "parity": agreement(given["parity"]["results"]),
            "predicted_sizes": predicted(given["sizes"]["results"]),
            "provenance": {
                **provenance(),
                "training_seeds": {
                    published.name(path): reports.load("training", path)["settings"].get("seed")
                    for path in args.training
                },
            },
            "reports": {published.name(path): sha256(path) for path in sources},
        },
    )
    print(f"{shown(args.out)}: {len(gates)} gates passed, {len(given['quants']['results'])} artifacts")


def serving(config: dict) -> dict:
    """How the model is to be served, as it was judged: context, sampling ({} is greedy), tokens of thought."""
    judged = config["eval"]
    return {
        "context": judged["context"],
        "sampling": judged.get("sampling", {}),
        "thinking_tokens": judged.get("thinking_tokens", 0),
    }


def evaluations(paths: list[Path]) -> tuple[list, list]:
    """(reports of eval_run.py, reports of live_run.py). UserError for two of one name.

    What another server answered is left out, and said: nobody knows which file it served.
    """
    evals, live, names = [], [], set()
    for path in paths:
        one = scores.load(path)
        if one["settings"]["backend"] not in SERVERS:
            cli.say(f"{shown(path)}: of a server of somebody else's, left out")
        elif eval_name(one) in names:
            raise UserError(f"{shown(path)}: a second report of {eval_name(one)}; remove the one that is out of date")
        else:
            (live if one["settings"]["suite"] == LIVE else evals).append(one)
            names.add(eval_name(one))
    return evals, live


def gate(name: str, required, measured, passed: bool) -> dict:
    return Gate(name, required, measured, bool(passed)).as_json()


def file_gates(given: dict, evals: list) -> list:
    """Every report was made from the very files that the quants report names."""
    made = {name: one["sha256"] for name, one in given["quants"]["results"].items()}
    users = [(name, "bf16", given[name]) for name in ("imatrix", "parity")]
    users += [
        (eval_name(one), one["settings"]["artifact"], one) for one in evals if one["settings"]["backend"] == "llama_cpp"
    ]
    gates = []
    for user, artifact, used in users:
        same = artifact in made and made[artifact] in {entry.get("sha256") for entry in used["inputs"]}
        gates.append(
            gate(
                f"{user} is of the measured {artifact}",
                "the same file",
                "the same file" if same else "another file",
                same,
            )
        )
    compared = checkpoint(given["parity"])
    for one in evals:
        if one["settings"]["backend"] == "mlx":
            same = checkpoint(one) == compared
            gates.append(
                gate(
                    f"{eval_name(one)} is of the checkpoint that parity compared",
                    "the same files",
                    "the same files" if same else "other files",
                    same,
                )
            )
    return gates


def checkpoint(report: dict) -> dict:
    """{path: sha256} of the folder among a report's inputs."""
    return {file["path"]: file["sha256"] for entry in report["inputs"] if "files" in entry for file in entry["files"]}


def parity_gates(parity: dict) -> list:
    """MLX and llama.cpp agree: exactly in float32 where that was compared, within the limit as served."""
    results, limits = parity["results"], parity["settings"]
    gates = [
        gate(
            "mean KL divergence between MLX and BF16 GGUF",
            f"at most {limits['max_kld']}",
            results["as_served"]["mean_kld"],
            results["as_served"]["mean_kld"] <= limits["max_kld"],
        )
    ]
    if exact := results.get("exact"):
        gates.append(
            gate(
                "greedy tokens equal to MLX's in float32",
                results["positions"],
                exact["greedy_equal"],
                exact["greedy_equal"] == results["positions"],
            )
        )
        gates.append(
            gate(
                "largest difference of log-probabilities in float32",
                f"at most {limits['max_difference']}",
                exact["max_difference"],
                exact["max_difference"] <= limits["max_difference"],
            )
        )
    return gates


def imatrix_gates(config: dict, imatrix: dict) -> list:
    """Every expert of every layer was seen often enough; a dense model has none."""
    least, needed = imatrix["results"]["fewest_tokens"], imatrix["settings"]["min_tokens"]
    if least is None:
        return (
            [gate("experts in the importance matrix", "each one counted", "none", False)]
            if "Moe" in config["architecture"]
            else []
        )
    return [
        gate(
            f"tokens of the least used expert (layer {least['layer']}, expert {least['expert']})",
            f"at least {needed}",
            least["tokens"],
            least["tokens"] >= needed,
        )
    ]


def eval_gates(config: dict, evals: list) -> list:
    """Every suite of the config was asked of every artifact and of the checkpoint on MLX, each above its thresholds."""
    suites, done = config["eval"]["suites"], {eval_name(one) for one in evals}
    wanted = [
        f"{suite}.{server}"
        for suite in suites
        for server in ("mlx.bf16", *(f"llama_cpp.{name}" for name in config["quants"]))
    ]
    gates = [gate(f"{name} was evaluated", "yes", "yes" if name in done else "no", name in done) for name in wanted]
    for one in (one for one in evals if one["settings"]["suite"] in suites):
        limits = suites[one["settings"]["suite"]]
        gates += [found.as_json() for found in evaluation_gates(one["results"], limits, eval_name(one))]
    return gates


def live_gates(config: dict, live: list) -> list:
    """What the config asks of the live runs, where it asks for anything."""
    wanted = config["eval"].get("live", {})
    return [found.as_json() for one in live for found in live_gate.of(one["results"], wanted, eval_name(one))]


def size_gates(sizes: dict) -> list:
    """Every policy stays within its budget at every predicted model."""
    return [
        gate(
            f"GiB of {name} at {model}",
            f"at most {one['budget_gib']}",
            one["gib"],
            one["bytes"] <= one["budget_gib"] * 2**30,
        )
        for model, predicted in sizes["results"].items()
        for name, one in predicted["artifacts"].items()
        if one["budget_gib"] is not None
    ]


def eval_name(one: dict) -> str:
    """As in its file name: SUITE.BACKEND.ARTIFACT."""
    return ".".join(one["settings"][key] for key in ("suite", "backend", "artifact"))


def provenance() -> dict:
    """Pins, patches and policies with their sha256, and the last commit that touched what makes a release."""
    files = sorted(path for pattern in MADE_FROM for path in ROOT.glob(pattern) if path.is_file())
    commit = subprocess.run(
        [
            "git",
            "log",
            "-1",
            "--format=%H",
            "--",
            "scripts",
            "gguf",
            "patches",
            "third_party",
            "configs",
            "models",
            "requirements.txt",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return {"commit": commit.stdout.strip() or None, "files": {shown(path): sha256(path) for path in files}}


def artifacts(config: dict, quants: dict, evals: list, live: list) -> dict:
    """Each measured file, under the name it is released by, with what it scored on every suite that was asked."""
    found = {
        name: {**one, "file": config["release_pattern"].replace("{POLICY}", name.upper()), "evals": {}, "live": None}
        for name, one in quants.items()
    }
    for one in (one for one in evals if one["settings"]["artifact"] in found):
        results, settings = one["results"], one["settings"]
        found[settings["artifact"]]["evals"][f"{settings['suite']}.{settings['backend']}"] = {
            "gated": settings["suite"] in config["eval"]["suites"],
            "cases": results["cases"],
            "passed": results["passed"],
            "raw": results["raw"],
            "text_tool_leaks": results["text_tool_leaks"],
            "no_tool_cases": results["no_tool"]["cases"],
            "false_positives": results["no_tool"]["false_positives"],
            "by_category": results["by_category"],
        }
    for one in (one for one in live if one["settings"]["artifact"] in found):
        results = {key: one["results"][key] for key in LIVE_RESULTS}
        found[one["settings"]["artifact"]]["live"] = {"gated": "live" in config["eval"], **results}
    return found


def agreement(parity: dict) -> dict:
    """The numbers of the parity report, without its list of single tokens."""
    return {
        key: {name: number for name, number in value.items() if name != "differing"}
        if isinstance(value, dict)
        else value
        for key, value in parity.items()
    }


def predicted(sizes: dict) -> dict:
    """GiB and budget of each artifact, by model."""
    return {
        model: {
            name: {key: one[key] for key in ("gib", "budget_gib", "bpw")} for name, one in entry["artifacts"].items()
        }
        for model, entry in sizes.items()
    }


if __name__ == "__main__":
    cli.run(main)
