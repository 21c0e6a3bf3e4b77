"""Train a LoRA adapter on a repair set, with MLX.

In:  a fused checkpoint and the folder of repair_build_set.py (or any folder with train.jsonl and valid.jsonl of
     {"messages", "tools"}).
Out: an adapter folder (adapter.safetensors, adapter.json) and a report with the losses.

  .venv/bin/python scripts/repair_train.py --model models/tiny --data repair_datasets/iter03 \\
      --adapter runs/tiny/repair/iter03/adapter --report runs/tiny/repair/iter03/training.json

Adapters go on q, k, v and out of attention, in and out of the short convolutions and the dense layers. Interrupted, it
goes on from its last saved state when it is run again. --from takes up an earlier adapter of the same model.

How the gradient is computed is chosen by the memory that is free, and said: through the whole model at once, layer by
layer, or so with the inputs of the layers in a file (kxl/lora/memory.py). Where the model does not fit by any of these,
its experts become int8 codes in mapped files, beside the saved state until the training ends. A core or a step of
`make train` can be given as --model, too. The adapter is fused into the BF16 checkpoint in either case.
"""

import random
import time
from dataclasses import asdict, fields
from pathlib import Path

from tqdm import tqdm

from kxl.base import cli, report
from kxl.base.files import read_json, remove_tree, shown
from kxl.model import blas
from kxl.plan.sizes import GROUP
from kxl.repair.settings import HELP, SHAPES, Settings

SPLITS = ("train", "valid")


def main() -> None:
    args = arguments()
    blas.use_fast_blas(keep_memory=True)
    import mlx.core as mx

    from kxl.chat import loss_mask
    from kxl.lora import adapter, attention, by_layer, grouped_experts, int8_experts, loop, memory, prefix
    from kxl.lora.schedule import warmup_then_linear
    from kxl.model import generate
    from kxl.moe.memory import CACHE
    from kxl.repair import rows, shapes

    settings = Settings(**{field.name: getattr(args, field.name) for field in fields(Settings)})
    chat, files = loss_mask.load(args.model), {split: args.data / f"{split}.jsonl" for split in SPLITS}
    train, valid = (shapes.encode(chat, rows.read(files[split]), args.shape, args.max_tokens) for split in SPLITS)
    inputs = [report.describe_input(path) for path in (*files.values(), args.model, *filter(None, [args.start]))]

    plan = prefix.plan(train, settings.batch_size, settings.steps, settings.seed)
    lengths = memory.lengths_of(prefix.collate([train[place] for place in places]) for places in plan)
    beside = args.adapter.with_name(f".{args.adapter.name}.core-{loop.key_of(inputs[len(SPLITS)])[:12]}")
    folder, choice = weights_of(args.model, lengths, settings.rank, beside)
    whole = choice.way == memory.WHOLE
    computes = prefix if whole else by_layer
    if not whole:
        blas.give_memory_back()
        mx.set_cache_limit(CACHE)
    model = int8_experts.load(folder) if choice.mapped else generate.load(folder)
    grouped_experts.use(model)
    attention.use(model)
    mx.random.seed(args.seed)
    if args.start:
        adapter.load(model, args.start)
    else:
        adapter.attach(model, settings.adapter)
    state = args.adapter.with_name(f".{args.adapter.name}.state")
    key = loop.key_of(args.shape, inputs, asdict(settings))
    rate = warmup_then_linear(settings.learning_rate, settings.warmup, final=1, planned=settings.steps)
    common = (model, prefix.loss, rate, state, key, settings.save_every, settings.clip)
    on_disk = args.adapter.parent if choice.way == memory.ON_DISK else None
    trainer = loop.Trainer(*common) if whole else by_layer.Trainer(*common, inputs_in=on_disk)
    progress = trainer.progress
    if not progress.valid_losses:
        progress.valid_losses.append(prefix.mean_loss(model, valid, args.batch_size, computes.loss, computes.beginning))
        cli.say(f"validation loss before training {progress.valid_losses[0]:.4f}")

    def batch_of(number: int, places: list[int]) -> tuple:
        """A batch, whether its gradient flows through the shared beginning, and that beginning where it does not."""
        batch = prefix.collate([train[place] for place in places])
        through = random.Random(f"{settings.seed} {number}").random() < settings.prefix_gradient
        return batch, through, None if through else computes.beginning(model, batch)

    def scored(places: list[int]) -> int:
        return sum(int(train[place].mask[1:].sum()) for place in places)

    started, ends = time.monotonic(), []
    with tqdm(total=settings.steps, desc=f"{args.adapter.parent.name} {args.shape}", unit="step") as bar:
        for step in trainer.run(plan, batch_of, scored):
            bar.update(step.number - bar.n)
            bar.set_postfix(loss=f"{step.loss:.3f}")
            ends.append(round(time.monotonic() - started, 3))
    before = progress.valid_losses[0]
    after = prefix.mean_loss(model, valid, args.batch_size, computes.loss, computes.beginning)

    adapter.save(args.adapter, adapter.trainable(model), {"lora": settings.adapter, "token_ids": []})
    results = summary(progress, after, {"train": len(train), "valid": len(valid)}, ends, mx.get_peak_memory())
    results |= {"gradient": choice.way, "int8_experts": choice.mapped}
    results |= {"predicted_peak_gib": round(choice.bytes / memory.GIB, 2)} if choice.bytes else {}
    report.write(args.report, inputs, {"shape": args.shape, **asdict(settings)}, results)
    trainer.forget()
    if beside.exists():
        remove_tree(beside)
    print(
        f"{shown(args.adapter)}: {settings.steps} steps in {progress.seconds:.0f} s, validation loss {before:.4f} "
        f"before, {after:.4f} after"
    )


def weights_of(model: Path, lengths: list, rank: int, beside: Path) -> tuple:
    """(folder of the weights to train on, memory.Choice): the model as it is, or a core of it, made in `beside`."""
    from kxl.lora import int8_experts, memory
    from kxl.model import checkpoint
    from kxl.model.shapes import MODEL_TYPES, normalize_config
    from kxl.moe import core as moe_core

    config = read_json(model / "config.json")
    if config.get("model_type") not in MODEL_TYPES:
        return model, memory.Choice(False, memory.WHOLE, 0)  # another architecture: its layers are not known here
    is_core, sparse = int8_experts.is_core(model), config["model_type"] == "lfm2_moe"
    config, there = normalize_config(config, shown(model / "config.json")), memory.usable()
    weights = (True,) if is_core else (False, True) if sparse else (False,)
    choice = memory.choose(config, weights, lengths, rank, there)
    first = memory.choices(config, weights, lengths, rank)[0]
    cli.say(
        f"gradient {choice}: {there / memory.GIB:.1f} GiB are there"
        + (f", and {first} would be faster" if choice != first else "")
    )
    if is_core or not choice.mapped:
        return model, choice
    if not beside.is_dir():
        cli.say(f"{shown(beside)}: the experts as int8 codes, once for this training")
        moe_core.build(beside, checkpoint.read(model), GROUP)
    return beside, choice


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
