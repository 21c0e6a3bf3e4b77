"""Train the tiny LFM2-MoE from nothing by a plan of phases, on a CPU or a GPU, with the same rows in the same order.

In:  a plan (kxl/dialogue/trainer.py says what is in one), the tokenizer of tiny_train_tokenizer.py --plan.
Out: MODEL/model.safetensors and config.json as mlx_lm saves them; a training report and a log.

    .venv/bin/python scripts/tiny_train_plan.py --model runs/tiny-next/model --work runs/tiny-next/work

The same command goes on where a run was stopped, and comes to the same bits as one that was not; after the last step it
begins anew.
"""

import json
import os
from pathlib import Path

import torch

from kxl.base import cli, report
from kxl.base.files import ROOT, read_json, shown, write_text
from kxl.chat import hermes_tools
from kxl.dialogue import trainer as training
from kxl.dialogue.contexts import HERMES_PROMPT
from kxl.dialogue.feed import Encoder, Feed
from kxl.dialogue.recordings import RECORDED
from kxl.model import blas, checkpoint
from kxl.tiny import words


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--plan", type=Path, default=ROOT / "configs/tiny.plan.json", help="the plan")
    parser.add_argument(
        "--model", type=Path, required=True, help="folder with the tokenizer; the checkpoint goes there"
    )
    parser.add_argument("--work", type=Path, required=True, help="folder of the resumable state")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: CUDA where there is one"
    )
    parser.add_argument("--workers", type=int, help="processes that draw rows (default: cores, at most 14; on a CPU 1)")
    parser.add_argument("--stop-after-minutes", type=float, metavar="N", help="save the state after N minutes and stop")
    parser.add_argument(
        "--until-step", type=int, metavar="N", help="stop after step N, as a benchmark; makes no checkpoint"
    )
    parser.add_argument("--report", type=Path, help="training report (JSON)")
    parser.add_argument("--log", type=Path, help="the lines that are printed, in a file")
    args = parser.parse_args()
    if args.device != "cuda":
        blas.use_kept_memory()

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # matrix products in one order; read when CUDA starts
    plan, tokenizer = read_json(args.plan), args.model / "tokenizer.json"
    encoder = Encoder(tokenizer, plan["reasoning"])
    plan["model"]["vocab_size"] = encoder.tokenizer.get_vocab_size()
    shared = (hermes_tools.TOOLS, HERMES_PROMPT, words.SPELLED, *RECORDED.values())
    data = [*sorted((ROOT / "datasets/tiny").glob("*/*.*")), *shared]
    used = [report.describe_input(path) for path in (args.plan, tokenizer, *data)]
    plan["rows_from"] = {entry["path"]: entry["sha256"] for entry in used[1:]}  # a state of other rows is refused
    args.work.mkdir(parents=True, exist_ok=True)
    start = training.saved_step(args.work / "state.pt")
    lines = args.log.read_text().splitlines() if args.log and args.log.exists() and start else []

    def tell(line: str) -> None:
        lines.append(line)
        print(line, flush=True)
        if args.log:
            write_text(args.log, "".join(line + "\n" for line in lines))

    workers = args.workers or (1 if args.device == "cpu" else max(1, min(14, (os.cpu_count() or 2) - 1)))
    with Feed(plan, tokenizer, start, workers) as feed:  # forks: before CUDA starts
        device = training.pick_device(args.device)
        trainer = training.Trainer(plan, device, args.work / "state.pt")
        count = sum(parameter.numel() for parameter in trainer.model.parameters())
        machine = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
        where = f"from step {trainer.step}, on {machine}, torch {torch.__version__}"
        tell(f"{count:,} parameters, {trainer.steps} steps, {where}")
        validation = training.Validation(plan, encoder, device, plan["validation"]["pools"])
        limit = args.stop_after_minutes and args.stop_after_minutes * 60
        done = trainer.run(feed, validation, limit, tell, args.until_step)
        if args.until_step and trainer.step < trainer.steps:
            print(f"stopped at step {trainer.step} of {trainer.steps}, as asked")
            return
        if not done:
            print(f"stopped at step {trainer.step} of {trainer.steps}; the same command goes on from there")
            return
        raw = validation.exact(trainer.model)
        model = trainer.finished()
        shipped = validation.exact(model)
        tell(json.dumps({"shipped": shipped}))
        weights = {name: weight.numpy() for name, weight in model.to("cpu").hf_tensors().items()}
        checkpoint.save_trained(args.model, plan["model"], weights)
    (args.work / "state.pt").unlink()  # what makes a next run begin anew
    if args.report:
        results = {
            "parameters": count,
            "tokens": trainer.tokens,
            "seconds": round(trainer.seconds),
            "history": trainer.history,
            "last": raw,
            "shipped": shipped,
            "made": report.describe_input(args.model / "model.safetensors"),
        }
        report.write(args.report, used, plan, results)
    took = f"{trainer.tokens:,} tokens, {trainer.seconds / 60:.1f} minutes"
    print(f"tiny model: {trainer.steps} steps, {took}, in {shown(args.model)}")


if __name__ == "__main__":
    cli.run(main)
