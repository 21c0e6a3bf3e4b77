"""Train a LoRA adapter on a repair set, with MLX.

In:  a fused checkpoint and the folder of repair_build_set.py (or any folder with train.jsonl and valid.jsonl of
     {"messages", "tools"}).
Out: an adapter folder (adapter.safetensors, adapter.json) and a report with the losses.

  .venv/bin/python scripts/repair_train.py --model models/tiny --data repair_datasets/iter03 \\
      --adapter runs/tiny/repair/iter03/adapter --report runs/tiny/repair/iter03/training.json

Adapters go on q, k, v and out of attention, in and out of the short convolutions and the dense layers. Interrupted, it
goes on from its last saved state when it is run again. --from takes up an earlier adapter of the same model.
"""

import time
from dataclasses import asdict, fields
from pathlib import Path

from tqdm import tqdm

from kxl.base import cli, report
from kxl.base.files import shown
from kxl.lora.settings import HELP, SHAPES, Settings
from kxl.model import blas


def main() -> None:
    args = arguments()
    blas.use_fast_blas(keep_memory=True)
    import mlx.core as mx

    from kxl.chat import loss_mask
    from kxl.lora import adapter, prefix, repair_training
    from kxl.repair import rows

    settings = Settings(**{field.name: getattr(args, field.name) for field in fields(Settings)})
    chat = loss_mask.load(args.model)
    splits = {
        split: repair_training.encode(chat, rows.read(args.data / f"{split}.jsonl"), args.shape, args.max_tokens)
        for split in ("train", "valid")
    }
    inputs = [report.describe_input(args.data / f"{split}.jsonl") for split in splits] + [
        report.describe_input(args.model)
    ]

    model = repair_training.load_model(args.model)
    mx.random.seed(args.seed)
    if args.start:
        adapter.load(model, args.start)
        inputs.append(report.describe_input(args.start))
    else:
        adapter.attach(model, settings.adapter)
    work = args.adapter.with_name(f".{args.adapter.name}.state")
    trainer = repair_training.Trainer(model, settings, work, key=repair_training.key_of(args.shape, inputs))

    valid_before = prefix.mean_loss(model, splits["valid"], args.batch_size)
    cli.say(f"validation loss before training {valid_before:.4f}")
    scored, started, ends = 0, time.monotonic(), []
    with tqdm(total=settings.steps, desc=f"{args.adapter.parent.name} {args.shape}", unit="step") as bar:
        for step, loss, count in trainer.run(splits["train"]):
            bar.update(step - bar.n)
            bar.set_postfix(loss=f"{loss:.3f}")
            scored += count
            ends.append(round(time.monotonic() - started, 3))
    seconds = time.monotonic() - started
    valid_after = prefix.mean_loss(model, splits["valid"], args.batch_size)

    adapter.save(args.adapter, adapter.trainable(model), {"lora": settings.adapter, "token_ids": []})
    results = summary(
        losses=trainer.losses,
        valid=(valid_before, valid_after),
        rows={split: len(examples) for split, examples in splits.items()},
        scored=scored,
        ends=ends,
        seconds=seconds,
        peak_bytes=mx.get_peak_memory(),
    )
    report.write(args.report, inputs, {"shape": args.shape, **asdict(settings)}, results)
    trainer.forget()
    print(
        f"{shown(args.adapter)}: {settings.steps} steps in {seconds:.0f} s, validation loss {valid_before:.4f} before, "
        f"{valid_after:.4f} after"
    )


def summary(losses: list, valid: tuple, rows: dict, scored: int, ends: list, seconds: float, peak_bytes: int) -> dict:
    """The report's results. `valid`: loss before and after; `ends`: when each step ended, in seconds since the start."""
    return {
        "losses": [round(loss, 4) for loss in losses],
        "valid_before": round(valid[0], 4),
        "valid_after": round(valid[1], 4),
        "rows": rows,
        "scored_tokens": scored,
        "seconds": round(seconds, 1),
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
        help="what a row is trained as: the conversation with loss on assistant turns, or one of two plain texts with loss on all (kxl/lora/repair_training.py)",
    )
    for field in fields(Settings):
        parser.add_argument(
            f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default, help=HELP[field.name]
        )
    return parser.parse_args()


if __name__ == "__main__":
    cli.run(main)
