"""Predict the file size of every policy and stock type at a model's real shapes, without its weights.

In:  shapes files (gguf/*.shapes.json) and gguf/export_plan.json.
Out: a report with bytes, GiB and bits per weight of each; exit code 2 when a policy exceeds its budget.

  .venv/bin/python scripts/quant_predict_sizes.py --report reports/lfm2.5-8b-a1b/sizes.json

A sparse GGUF of the shapes goes through `llama-quantize --dry-run`. For the policies the same bytes
are also counted from the rules, and both counts must agree to 0.01 MiB. A file is larger than its
tensors by its metadata, nearly all of it the tokenizer: --token-bytes per vocabulary entry.
"""

from pathlib import Path

from kxl.base import cli, report
from kxl.base.cli import UserError
from kxl.base.files import ROOT, scratch_dir, shown, write_text
from kxl.quant import policy
from kxl.quant.quantizing import dry_run
from kxl.quant.sparse import read_shapes, write_sparse

SHAPES = [ROOT / "gguf" / "lfm2-8b-a1b.shapes.json"]


def predict(shapes: Path, plan_path: Path, token_bytes: int) -> dict:
    """Sizes of every policy and stock type for one shapes file."""
    config, plan = read_shapes(shapes), policy.read_plan(plan_path)
    model_name = shapes.name.removesuffix(".shapes.json")
    artifacts = {}
    with scratch_dir() as folder:
        sparse, log = Path(folder) / "sparse.gguf", Path(folder) / "quantize.log"
        write_sparse(config, sparse)
        tensors = policy.read_tensors(sparse)
        parameters = sum(policy.nbytes(t.shape, policy.Type.I8) for t in tensors)
        metadata = config["vocab_size"] * token_bytes
        for name in sorted(plan["policies"]):
            rules = policy.load(name, plan_path)
            types = policy.assign(rules, tensors)
            write_text(Path(folder) / "rules.txt", policy.plain(rules))
            mib, found = dry_run(sparse, rules.base_type, log, Path(folder) / "rules.txt")
            check(name, policy.data_bytes(tensors, types), mib, types, found)
            artifacts[name] = {
                "policy": policy.plain(rules).splitlines(),
                "base_type": rules.base_type,
                "mib": mib,
                "budget_gib": plan["policies"][name]["budget_gib"].get(model_name),
            }
        for name in plan["stock"]:
            mib, _ = dry_run(sparse, name, log)
            artifacts[name] = {"policy": None, "base_type": name, "mib": mib, "budget_gib": None}
    for entry in artifacts.values():
        tensor_bytes = entry.pop("mib") * 2**20
        entry["bytes"] = round(tensor_bytes + metadata)
        entry["gib"] = round(entry["bytes"] / 2**30, 3)
        entry["bpw"] = round(tensor_bytes * 8 / parameters, 3)
    return {"parameters": parameters, "metadata_bytes": metadata, "artifacts": artifacts}


def check(name: str, counted: int, mib: float, types: dict, found: dict[str, str]) -> None:
    """The rules as we read them and as llama-quantize reads them must give the same types and bytes."""
    for tensor, kind in found.items():
        if kind.lower() != types[tensor].name.lower():
            raise UserError(
                f"policy {name}: {tensor} should become {types[tensor].name}, llama-quantize makes it {kind}"
            )
    if abs(counted / 2**20 - mib) > 0.01:
        raise UserError(
            f"policy {name}: its rules count {counted / 2**20:.2f} MiB, llama-quantize predicts {mib:.2f} MiB"
        )


def over_budget(results: dict) -> list[str]:
    """One line for each policy that exceeds its budget."""
    return [
        f"{model} {name}: {entry['gib']} GiB, above {entry['budget_gib']}"
        for model, sizes in results.items()
        for name, entry in sizes["artifacts"].items()
        if entry["budget_gib"] is not None and entry["bytes"] > entry["budget_gib"] * 2**30
    ]


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--report", type=Path, required=True, metavar="FILE", help="report to write (JSON)")
    parser.add_argument(
        "--shapes",
        type=Path,
        action="append",
        metavar="FILE",
        help=f"shapes or config.json, may be repeated (default: {', '.join(shown(path) for path in SHAPES)})",
    )
    parser.add_argument(
        "--plan", type=Path, default=policy.PLAN, metavar="FILE", help="export plan with policies, stock types, budgets"
    )
    parser.add_argument(
        "--token-bytes",
        type=int,
        default=40,
        help="bytes of tokenizer metadata per vocabulary entry (35.8 for LFM2's 65,536, template not counted)",
    )
    args = parser.parse_args()

    shapes = args.shapes or SHAPES
    results = {path.name.removesuffix(".shapes.json"): predict(path, args.plan, args.token_bytes) for path in shapes}
    report.write(
        args.report,
        [*shapes, args.plan, *sorted(args.plan.parent.glob("*.tensor-types"))],
        {"token_bytes": args.token_bytes},
        results,
    )
    for model, sizes in results.items():
        print(f"{model}: {sizes['parameters'] / 1e6:.1f} M parameters")
        for name, entry in sizes["artifacts"].items():
            budget = f"  budget {entry['budget_gib']}" if entry["budget_gib"] is not None else ""
            print(f"  {name:<8} {entry['gib']:>7.3f} GiB {entry['bpw']:>7.3f} bits per weight{budget}")
    if problems := over_budget(results):
        raise UserError("over budget: " + "; ".join(problems))
    print(f"{shown(args.report)}: every policy within its budget")


if __name__ == "__main__":
    cli.run(main)
