"""Train a LoRA adapter on a repair set, with MLX.

In:  a fused checkpoint and the folder of repair_build_set.py (or any folder with train.jsonl and valid.jsonl of
     {"messages", "tools"}).
Out: an adapter folder (adapter.safetensors, adapter.json) and a report with the losses.

  .venv/bin/python scripts/repair_train.py --model models/tiny --data repair_datasets/iter03 \\
      --adapter runs/tiny/repair/iter03/adapter --report runs/tiny/repair/iter03/training.json

Adapters go on q, k, v and out of attention, in and out of the short convolutions and the dense layers. Interrupted, it
goes on from its last saved state when it is run again. --from takes up an earlier adapter of the same model.
Where BF16 does not fit into memory, give a core or a step of `make train` as --model: its experts stay int8 codes in
mapped files. The adapter is fused into the BF16 checkpoint of that step.
"""

import random
import time
from dataclasses import asdict, fields
from pathlib import Path

from tqdm import tqdm

from kxl.base import cli, report
from kxl.base.files import shown
from kxl.model import blas
from kxl.repair.settings import HELP, SHAPES, Settings

SPLITS = ("train", "valid")


def main() -> None:
    args = arguments()
    blas.use_fast_blas(keep_memory=True)
    import mlx.core as mx

    from kxl.chat import loss_mask
    from kxl.lora import adapter, grouped_experts, int8_experts, loop, prefix
    from kxl.lora.schedule import warmup_then_linear
    from kxl.model import generate
    from kxl.repair import rows, shapes

    settings = Settings(**{field.name: getattr(args, field.name) for field in fields(Settings)})
    chat, files = loss_mask.load(args.model), {split: args.data / f"{split}.jsonl" for split in SPLITS}
    train, valid = (shapes.encode(chat, rows.read(files[split]), args.shape, args.max_tokens) for split in SPLITS)
    inputs = [report.describe_input(path) for path in (*files.values(), args.model, *filter(None, [args.start]))]

    model = int8_experts.load(args.model) if int8_experts.is_core(args.model) else generate.load(args.model)
    grouped_experts.use(model)
    mx.random.seed(args.seed)
    if args.start:
        adapter.load(model, args.start)
    else:
        adapter.attach(model, settings.adapter)
    state = args.adapter.with_name(f".{args.adapter.name}.state")
    key = loop.key_of(args.shape, inputs, asdict(settings))
    rate = warmup_then_linear(settings.learning_rate, settings.warmup, final=1, planned=settings.steps)
    trainer = loop.Trainer(model, prefix.loss, rate, state, key, settings.save_every, settings.clip)
    progress = trainer.progress
    if not progress.valid_losses:
        progress.valid_losses.append(prefix.mean_loss(model, valid, args.batch_size))
        cli.say(f"validation loss before training {progress.valid_losses[0]:.4f}")

    def batch_of(number: int, places: list[int]) -> tuple:
        """A batch, whether its gradient flows through the shared beginning, and that beginning where it does not."""
        batch = prefix.collate([train[place] for place in places])
        through = random.Random(f"{settings.seed} {number}").random() < settings.prefix_gradient
        return batch, through, None if through else prefix.beginning(model, batch)

    def scored(places: list[int]) -> int:
        return sum(int(train[place].mask[1:].sum()) for place in places)

    plan = prefix.plan(train, settings.batch_size, settings.steps, settings.seed)
    started, ends = time.monotonic(), []
    with tqdm(total=settings.steps, desc=f"{args.adapter.parent.name} {args.shape}", unit="step") as bar:
        for step in trainer.run(plan, batch_of, scored):
            bar.update(step.number - bar.n)
            bar.set_postfix(loss=f"{step.loss:.3f}")
            ends.append(round(time.monotonic() - started, 3))
    before, after = progress.valid_losses[0], prefix.mean_loss(model, valid, args.batch_size)

    adapter.save(args.adapter, adapter.trainable(model), {"lora": settings.adapter, "token_ids": []})
    results = summary(progress, after, {"train": len(train), "valid": len(valid)}, ends, mx.get_peak_memory())
    report.write(args.report, inputs, {"shape": args.shape, **asdict(settings)}, results)
    trainer.forget()
    print(
        f"{shown(args.adapter)}: {settings.steps} steps in {progress.seconds:.0f} s, validation loss {before:.4f} "
        f"before, {after:.4f} after"
    )


def summary(progress, valid_after: float, rows: dict, ends: list, peak_bytes: int) -> dict:
    """The report's results. progress: a loop.Progress; ends: seconds from this process's start to each step's end."""
    return {
        "losses": [round(loss, 4) for loss in progress.losses],
        "valid_before": round(progress.valid_losses[0], 4),
        "valid_after": round(valid_after, 4),
        "rows": rows,
        "scored_tokens": progress.tokens,
        "seconds": round(progress.seconds, 1),
        "step_ends": ends,
        "peak_memory_gib": round(peak_bytes / 2**30, 2),
    }


def arguments():
    parser = cli.parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="fused checkpoint to start from")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="folder with train.jsonl and valid.jsonl"
    )
    parser.add_argument("--adapter", type=Path, required=True, metavar="DIR", help="adapter folder to write")
    parser.add_argument("--report", type=Path, required=True, help="report to write (JSON)")
    parser.add_argument(
        "--from", dest="start", type=Path, metavar="DIR", help="adapter folder to take up; its rank and targets hold"
    )
    parser.add_argument(
        "--shape",
        choices=SHAPES,
        default="structured",
        help="what a row is trained as: the conversation with loss on assistant turns, or one of two plain texts with "
        "loss on all (kxl/repair/shapes.py)",
    )
    for field in fields(Settings):
        parser.add_argument(
            f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default, help=HELP[field.name]
        )
    return parser.parse_args()


if __name__ == "__main__":
    cli.run(main)
