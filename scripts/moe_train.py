"""Train all experts and routers of an LFM2-MoE on its int8 core.

In:  --core (moe_build_core.py), --train and --valid (moe_encode_rows.py), --config (configs/NAME-moe.json), which flags
     override.
Out: checkpoints step_NNNNN and step_NNNNN_final in --work, resumed by the same command; a report.
     `scripts/moe_materialize.py` makes a BF16 checkpoint of any of them.

streamed (default): the gradient of all experts at once, one forward and one backward per example
grouped: groups of layers in turn, as the reference did it

  .venv/bin/python scripts/moe_train.py --core runs/tiny/core --train runs/tiny/moe/train.jsonl \\
      --valid runs/tiny/moe/valid.jsonl --config configs/tiny-moe.json --work runs/tiny/moe/streamed

Several processes, on one machine or on several, share each batch; WORK must be visible to all. Those on one machine
share its memory, and with mapped files each keeps a copy of the core in WORK:

  .venv/bin/mlx.launch --backend ring -n 2 .venv/bin/python scripts/moe_train.py --distributed --shares 2 ...

--shares N, a power of two that divides the batch, sums a batch in N parts and in one fixed order: one process and any
number of processes that divides N then train the same weights, to the bit, on processors of one kind with as many
threads. With 1, as without it, a process takes its rows at once, and the last bits depend on how many share the batch.
"""

import contextlib
import platform
import zlib
from pathlib import Path

from kxl.base import cli
from kxl.base.cli import UserError
from kxl.base.files import read_json, shown
from kxl.model import blas

OVERRIDES = {
    "mode": str,
    "rounding": str,
    "optimizer": str,
    "learning_rate": float,
    "steps": int,
    "epochs": int,
    "batch": int,
    "shares": int,
    "seed": int,
    "max_tokens": int,
    "group_layers": int,
    "group_stride": int,
    "checkpoint_every": int,
    "carry_bits": int,
    "storage": str,
    "decay_tokens": int,
    "few_tokens": str,
    "gradient_clip": float,
    "balance_loss": float,
    "z_loss": float,
    "validate_every": int,
}


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--core", type=Path, required=True, help="int8 core to start from")
    parser.add_argument("--train", type=Path, required=True, help="encoded rows")
    parser.add_argument("--valid", type=Path, required=True, help="encoded rows that are never trained on")
    parser.add_argument("--config", type=Path, required=True, help="training config")
    parser.add_argument("--work", type=Path, required=True, help="folder of the checkpoints")
    parser.add_argument("--report", type=Path, help="report of the finished run (JSON)")
    parser.add_argument(
        "--hardware", type=Path, help="hardware profile with the memory stop (default: from this machine's memory)"
    )
    parser.add_argument(
        "--distributed", action="store_true", help="share each batch with the processes that mlx.launch started"
    )
    for key, kind in OVERRIDES.items():
        parser.add_argument(f"--{key.replace('_', '-')}", type=kind, help=f"{key} instead of the config's")
    args = parser.parse_args()
    blas.use_fast_blas()
    train(args)


def train(args) -> None:
    """Check everything cheap first, then train or go on from the last checkpoint, and report."""
    import mlx.core as mx

    from kxl.base import report
    from kxl.model.batches import own_shares
    from kxl.moe import core as moe_core
    from kxl.moe import hardware, mapped, memory
    from kxl.moe import rows as moe_rows
    from kxl.moe.rows import steps_of
    from kxl.moe.run import Run, check_same, checkpoints, require_room
    from kxl.moe.settings import check_settings, overridden

    given = {key: getattr(args, key) for key in OVERRIDES if getattr(args, key) is not None}
    settings = check_settings(overridden(read_json(args.config), given), shown(args.config))
    profile = hardware.load_profile(args.hardware)
    stop = int(profile["memory_stop_gib"] * hardware.GIB)
    mx.set_cache_limit(memory.CACHE)  # freed buffers beyond this go back to the system

    if not (args.core / "config.json").is_file():
        raise UserError(f"{shown(args.core)}: no core here; build it with `make core`")
    config = moe_core.check_config(
        read_json(args.core / "config.json"), settings["group_size"], shown(args.core / "config.json")
    )
    rows = moe_rows.read(args.train, config["vocab_size"], settings["max_tokens"])
    valid = moe_rows.read(args.valid, config["vocab_size"], settings["max_tokens"])
    inputs = [report.describe_input(path) for path in (args.train, args.valid, args.core)]
    identity = {"train": inputs[0]["sha256"], "core": {Path(f["path"]).name: f["sha256"] for f in inputs[2]["files"]}}

    earlier, steps = checkpoints(args.work), steps_of(settings, len(rows))
    if earlier:
        check_same(earlier[-1], settings, identity, steps)  # before anything large is read
    world = join(mx) if args.distributed else None
    rank, ranks = (world.rank(), world.size()) if world else (0, 1)
    longest, each = max(len(row["tokens"]) for row in rows), settings["batch"] // ranks
    shares = len(own_shares(settings, rank, ranks)[1])
    predicted = memory.predict(config, settings, longest * each, longest, shares)["peak"]
    mapped.clear(args.work, rank, ranks)
    here = on_this_machine(mx, world)  # all processes have come here, so what a killed run left is gone
    stop //= here
    if predicted > stop:
        whose = "a run" if here == 1 else f"each of the {here} processes on this machine"
        fewer = "" if here == 1 else ", or start fewer processes here"
        raise UserError(
            f"{longest} tokens x {each} rows need about {predicted / hardware.GIB:.1f} GiB, and {whose} must stop at "
            f"{stop / hardware.GIB:.1f}; lower max_tokens or batch{fewer}"
        )
    core_bytes = moe_core.stored_bytes(config, settings["group_size"], settings["carry_bits"])
    require_room(core_bytes, settings, steps, args.work, ranks)

    with opened(earlier[-1] if earlier else args.core, args, settings, world) as core:
        if core.group != settings["group_size"]:
            raise UserError(
                f"{shown(args.core)} has groups of {core.group}, the config asks for {settings['group_size']}; build "
                "the core again (make core)"
            )
        run = Run(core, rows, valid, settings, args.work, identity, hardware.MemoryGuard(stop), world)
        if earlier:
            run.resume(earlier[-1])
        last = run.train()
    if run.rank == 0:
        results = summary(run, last, predicted)
        if args.report:
            report.write(args.report, inputs, settings, results)
        before, after = run.validated[0]["loss"], run.validated[-1]["loss"]
        print(
            f"{shown(last)}: {run.steps} steps, validation loss {before:.4f} -> {after:.4f}, "
            f"{100 * results['codes_changed_per_step']:.2f} % of the updated codes changed per step, "
            f"peak {results['peak_rss_gib']:.2f} GiB"
        )


@contextlib.contextmanager
def opened(source: Path, args, settings: dict, world):
    """The core of a core folder or checkpoint, in memory or in a mapped copy in --work, as `storage` says."""
    from kxl.moe import core as moe_core
    from kxl.moe import mapped

    def set_carry(folder: Path) -> None:
        moe_core.set_carry(folder, settings["carry_bits"])

    if settings["storage"] == "resident":
        yield moe_core.load(source, tokenizer_of=args.core)
    else:
        with mapped.live(args.work, source, set_carry, world.rank() if world else 0) as folder:
            yield moe_core.load(folder, tokenizer_of=args.core, mapped=True)


def join(mx):
    """The group of processes that mlx.launch started."""
    try:
        return mx.distributed.init(strict=True, backend="ring")
    except RuntimeError as error:
        raise UserError(
            f"--distributed found no other processes ({error}); start them with mlx.launch, as --help shows"
        ) from None


def on_this_machine(mx, world) -> int:
    """How many processes of the group `world` share this machine's memory; 1 for None. All of them must ask."""
    if world is None:
        return 1
    boot = Path("/proc/sys/kernel/random/boot_id")  # containers of one machine have one; not on macOS
    machine = boot.read_text() if boot.is_file() else platform.node()
    mine = zlib.crc32(machine.encode()) & 0x7FFFFFFF
    machines = mx.distributed.all_gather(mx.array([mine], mx.int32), group=world, stream=mx.cpu)
    return machines.tolist().count(mine)


def summary(run, last: Path, predicted: int) -> dict:
    """What the report says of a finished run."""
    from kxl.moe import hardware

    history = run.history
    tokens, seconds = sum(h["tokens"] for h in history), sum(h["seconds"] for h in history)
    return {
        "checkpoint": shown(last),
        "steps": run.steps,
        "tokens": tokens,
        "seconds": round(seconds, 1),
        "tokens_per_second": round(tokens / seconds, 1),
        "peak_rss_gib": max(h["peak_rss_gib"] for h in history),
        "predicted_peak_gib": round(predicted / hardware.GIB, 3),
        "codes_changed_per_step": round(sum(h["codes_changed"] for h in history) / len(history), 6),
        "clipped": round(sum(h["clipped"] for h in history) / len(history), 4),
        "validation": run.validated,
        "loss": [round(h["loss"], 5) for h in history],
    }


if __name__ == "__main__":
    cli.run(main)
