"""SmolLM's: train a LoRA adapter on proven rows: with torch on a CPU, with MLX on a Mac.

In:  a checkpoint folder, the folder of scripts/prepare_data.py (its manifest must prove exactly these rows for
     exactly this tokenizer and template; there is no switch to skip that).
Out: an adapter folder (adapter.safetensors, BF16, and adapter.json) and a report with the losses.

  .venv/bin/python scripts/train_lora.py --config configs/smollm2-135m.json --model runs/smollm2-135m/base \\
      --data runs/smollm2-135m/data --work runs/smollm2-135m/lora --adapter runs/smollm2-135m/adapter \\
      --report reports/smollm2-135m/training.json

Interrupt it and run it again: it goes on from --work. After the config's epochs it continues while the validation loss
still falls, up to max_epochs, and keeps the best epoch. A loss that rises by a tenth ends the training at once: in an
epoch that it had earned, that is said and no more; in one of the config's epochs, adapter and report are named
NAME.failed and the exit code is 2. Repairs are trained by repair_train.py.

torch packs rows that offer the same tools, so that these are read once, and multiplies BF16 where the processor can.
The adapter is the same kind of file. --minutes stops after that time with the state saved, for a machine that is lent
in pieces; exit code 3 says that there is more to do.
"""

import math
from dataclasses import asdict
from pathlib import Path

from kxl.base import cli, report
from kxl.base import config as configs
from kxl.base.cli import UserError
from kxl.base.files import shown
from kxl.chat import loss_mask
from kxl.smol import backend, rows
from kxl.smol import tokens as smol_tokens

LATER = 3  # exit code of a training that --minutes stopped
DATA_FILES = ("manifest.json", "train.jsonl", "valid.jsonl")


def main() -> None:
    args = arguments()
    backend.prepare(args.backend)
    from kxl.lora import epochs, loop

    config = configs.load(args.config, configs.SMOL)
    settings = {**config["training"], **({"epochs": args.epochs, "max_epochs": args.epochs} if args.epochs else {})}
    adapter = {**config["lora"], **({"embedding": args.embedding} if args.embedding else {})}
    chat = loss_mask.load(args.model)
    tokens = smol_tokens.resolve(config, chat.tokenizer, shown(args.config))
    examples, valid = (rows.load_proven(args.data, split, chat, tokens) for split in ("train", "valid"))
    files = [args.config, *(args.data / name for name in DATA_FILES), args.model / "model.safetensors"]
    inputs = [report.describe_input(path) for path in files if path.is_file()]
    # How far it may go on changes no step of what is there: max_epochs can be raised or lowered for one that stopped.
    fixed = {name: value for name, value in settings.items() if name != "max_epochs"}
    key = loop.key_of([file["sha256"] for file in inputs[1:]], fixed, adapter, args.backend)

    model, layers, engine, store = (with_torch if args.backend == "torch" else with_mlx)(
        args.model, adapter, tokens, settings
    )
    outcome = epochs.train(model, examples, valid, settings, args.work, key, args.steps, engine, args.minutes)
    if outcome.move == "later":
        print(f"{shown(args.work)}: {outcome.steps} steps are done and saved; run it again to go on")
        raise SystemExit(LATER)
    arrays = store.trainable(model)
    # A spike in an epoch that was earned costs that epoch; in one of the config's, the training has failed.
    failed = outcome.move == "spike" and len(outcome.valid_losses) - 1 <= settings["epochs"]
    folder = args.adapter.with_name(args.adapter.name + ".failed") if failed else args.adapter
    identity = {"lora": adapter, "token_ids": list(tokens.ids), "base_model": config["base_model"]}
    store.save(folder, arrays, identity)
    results = {
        **asdict(outcome),
        "adapted_layers": len(layers),
        "trainable_parameters": sum(math.prod(array.shape) for array in arrays.values()),
        "tokens_per_second": round(outcome.tokens / max(1, outcome.seconds), 1),
        "adapter_bytes": (folder / store.WEIGHTS).stat().st_size,
    }
    described = {"training": settings, "lora": adapter, "max_steps": args.steps, "backend": args.backend}
    report.write_gated(args.report, not failed, inputs, described, results)
    losses = ", ".join(f"{loss:.3f}" for loss in outcome.valid_losses)
    if failed:
        raise UserError(
            f"the validation loss rose above {epochs.SPIKE} times its best ({losses}); the adapter of epoch "
            f"{outcome.best_epoch} is in {shown(folder)}. Lower learning_rate in the config and train again in an "
            "empty --work"
        )
    stopped = ", where it rose by a tenth and the training ended" if outcome.move == "spike" else ""
    print(
        f"{shown(folder)}: {results['trainable_parameters']:,} parameters, validation loss {losses}{stopped}; "
        f"epoch {outcome.best_epoch} kept"
    )


def with_torch(folder: Path, adapter: dict, tokens, settings: dict) -> tuple:
    """(model, adapted layers, engine of epochs.train, module that saves the adapter), in torch."""
    import torch

    from kxl.lora import torch_attention
    from kxl.smol import torch_engine, torch_model

    torch.manual_seed(settings["seed"])
    model = torch_model.load(folder, attention=torch_attention.NAME)
    return model, torch_model.attach(model, adapter, tokens.ids), torch_engine, torch_model


def with_mlx(folder: Path, adapter: dict, tokens, settings: dict) -> tuple:
    """The same in MLX."""
    import mlx.core as mx

    from kxl.lora import adapter as lora_adapter
    from kxl.lora import cpu_exponentials, epochs
    from kxl.model import generate

    mx.random.seed(settings["seed"])
    model = generate.load(folder)
    layers = lora_adapter.attach(model, adapter, tokens.ids)
    cpu_exponentials.use(model)
    if settings.get("grad_checkpoint"):
        from mlx_lm.tuner.trainer import grad_checkpoint

        grad_checkpoint(model.layers[0])
    return model, layers, epochs.Mlx, lora_adapter


def arguments():
    parser = cli.parser(__doc__)
    parser.add_argument("--backend", choices=backend.NAMES, default=backend.usual(), help="what computes (%(default)s)")
    parser.add_argument("--config", type=Path, required=True, help="model config (see configs/)")
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="checkpoint folder to adapt")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of scripts/prepare_data.py")
    parser.add_argument(
        "--work", type=Path, required=True, metavar="DIR", help="where the state to resume from is kept"
    )
    parser.add_argument("--adapter", type=Path, required=True, metavar="DIR", help="adapter folder to write")
    parser.add_argument("--report", type=Path, required=True, metavar="FILE", help="report to write")
    parser.add_argument(
        "--embedding", choices=("none", "low_rank", "token_rows"), help="how embed_tokens moves (default: the config's)"
    )
    parser.add_argument(
        "--epochs", type=int, help="exactly this many epochs (default: the config's, and more while the loss falls)"
    )
    parser.add_argument("--minutes", type=float, help="stop after about this many minutes, state saved (default: none)")
    parser.add_argument("--steps", type=int, help="stop after this many steps, for a trial (default: none)")
    return parser.parse_args()


if __name__ == "__main__":
    cli.run(main)
