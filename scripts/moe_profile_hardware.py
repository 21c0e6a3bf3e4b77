"""Measure this machine: what decides a training run, the memory at which it must stop, and how long the line takes.

Out: configs/hardware/NAME.json: memory, cores, the BLAS in use, float32 and BF16 matmul speed, the speed of changing
     int8 codes, disk speed, and `memory_stop_gib`: resident memory at which a run ends with a checkpoint. Then a walk
     of the whole line with three random models (configs/walk-shapes.json): what `make plan` scales.

The stop is all memory but 8 % (at least 1 GiB): what the system needs to go on without swapping. A minute, and about
ten for the walks, which need 14 GiB of disk and llama.cpp. Let nothing else run meanwhile.

  .venv/bin/python scripts/moe_profile_hardware.py --out configs/hardware/this-machine.json --scratch runs --walks
"""

import os
import shutil
import time
from pathlib import Path

from kxl.base import cli, report
from kxl.base.files import ROOT, read_json, require_space, shown
from kxl.model import blas

SCRIPTS = Path(__file__).parent
SHAPES = ROOT / "configs" / "walk-shapes.json"
TRAINING = ROOT / "configs" / "lfm2.5-8b-a1b-moe.json"
STEP_TOKENS = (256, 1024)
BESIDE = 0.1  # share of the processors that other work may have
SIZE = 2048
FILE_BYTES = 2**30


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="profile to write (JSON)")
    parser.add_argument("--scratch", type=Path, default=Path("runs"), help="folder on the disk that training will use")
    parser.add_argument("--walks", action="store_true", help="walk the line, too: what a plan needs")
    args = parser.parse_args()
    blas.use_fast_blas()
    results = profile(args.scratch)
    beside = 0.0
    if args.walks:
        from kxl.plan import costs

        results |= walked(args.scratch)
        beside = costs.others(results)
    report.write(args.out, [], {"matmul": [SIZE, SIZE, SIZE], "file_bytes": FILE_BYTES}, results)
    if beside > BESIDE:
        cli.say(f"other work had {beside:.0%} of the processors: times are too long; measure again with nothing beside")
    print(
        f"{shown(args.out)}: {results['memory_gib']:.1f} GiB, stop at {results['memory_stop_gib']:.1f}; "
        f"matmul {results['matmul_gflops']:.0f} GFLOP/s ({results['bf16_matmul_gflops']:.0f} in BF16), "
        f"int8 updates {results['int8_updates_per_second'] / 1e6:.0f} M/s, "
        f"disk {results['disk_write_mib_s']:.0f} / {results['disk_read_mib_s']:.0f} MiB/s"
    )


def profile(scratch: Path) -> dict:
    """Memory, speeds of multiplying, of int8 updates and of the disk under `scratch`."""
    import mlx.core as mx
    import numpy as np
    import psutil

    from kxl.moe import hardware, int8

    a, b = mx.random.normal((SIZE, SIZE)), mx.random.normal((SIZE, SIZE))
    matmul = best(lambda: mx.eval(a @ b))
    matrix = int8.quantize(np.array(a), 64)
    delta = np.full((SIZE, SIZE), 1e-5, np.float32)
    half_a, half_b = a.astype(mx.bfloat16), b[:, : SIZE // 8].astype(mx.bfloat16)  # slow on a CPU: a piece of it
    half = best(lambda: mx.eval(half_a @ half_b), times=1)
    update = best(lambda: int8.subtract(matrix, slice(0, SIZE), delta.copy(), np.random.SFC64(1)))
    attention = attention_ns()
    write, read = disk(scratch)
    total = psutil.virtual_memory().total
    return {
        "memory_gib": round(total / hardware.GIB, 2),
        "memory_stop_gib": round(hardware.memory_stop(total) / hardware.GIB, 2),
        "cores": os.cpu_count(),
        "blas": blas.fast_blas() or "MLX's own",
        "device": str(mx.default_device().type).rsplit(".", 1)[-1],
        "matmul_gflops": round(2 * SIZE**3 / matmul / 1e9, 1),
        "bf16_matmul_gflops": round(2 * SIZE**2 * (SIZE // 8) / half / 1e9, 1),
        "int8_updates_per_second": round(SIZE * SIZE / update),
        "attention_ns": round(attention, 2),
        "disk_write_mib_s": round(write),
        "disk_read_mib_s": round(read),
    }


def attention_ns() -> float:
    """Nanoseconds for each score of causal attention in a training's step: forward and gradient, one query and key."""
    import mlx.core as mx

    from kxl.lora.cpu_exponentials import causal_attention

    heads, width = 8, 64
    arrays = [mx.random.normal((1, count, SIZE, width)) for count in (heads, heads // 4, heads // 4)]
    step = mx.value_and_grad(lambda q, k, v: causal_attention(q, k, v, width**-0.5).sum(), argnums=(0, 1, 2))
    return 1e9 * best(lambda: mx.eval(step(*arrays)), times=3) / (heads * SIZE * SIZE / 2)


def walked(scratch: Path) -> dict:
    """What the line took with three random models, and a step of two of them at two lengths: `walks` and `steps`."""
    from tqdm import tqdm

    from kxl.plan import costs
    from kxl.plan.walk import STAGES, Pace, Walk

    shapes, walks = read_json(SHAPES), []
    folder = scratch / f"profile-{os.getpid()}"
    try:
        for name, rows in (("small", 50), ("words", 50), ("wide", 1000)):  # two lengths of traces
            walk = Walk(folder / name, shapes[name], Pace(router_rows=rows))
            require_space(scratch, costs.largest_moment(costs.of_walk(walk, None), STAGES, list(STAGES)))
            for stage in tqdm(STAGES, desc=f"{name} model", unit="stage", leave=False):
                walk.stage(stage)
            walks.append({**walk.said, "stages": walk.measured})
            cli.say(f"{name}: {sum(stage['seconds'] for stage in walk.measured.values()):.0f} s for the whole line")
        steps = [
            {"shapes": shapes[name], "taken": steps_of(folder / name / "shapes.json")} for name in ("small", "wide")
        ]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {"walks": walks, "steps": steps}


def steps_of(shapes: Path) -> list[dict]:
    """A streamed step of a file of shapes at each of STEP_TOKENS: tokens, seconds, and of these the forward's."""
    from kxl.moe import memory

    flags = ["--shapes", shapes, "--config", TRAINING, "--tokens"]
    steps = [memory.measured(SCRIPTS / "moe_measure_step.py", [*flags, tokens]) for tokens in STEP_TOKENS]
    return [
        {"tokens": step["tokens"], "seconds": step["seconds"], "forward": step["parts"]["forward"]} for step in steps
    ]


def best(work, times: int = 5) -> float:
    """Seconds of the fastest of some runs, after one that warms up."""
    work()
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def disk(folder: Path) -> tuple[float, float]:
    """(write, read) in MiB/s of one file of 1 GiB, past the system's cache where it lets go of it."""
    require_space(folder, FILE_BYTES)
    path, block = folder / f".disk-speed-{os.getpid()}", os.urandom(2**24)
    try:
        began = time.perf_counter()
        with open(path, "wb") as file:
            for _ in range(FILE_BYTES // len(block)):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        written = time.perf_counter() - began
        with open(path, "rb") as file:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            began = time.perf_counter()
            while file.read(2**24):
                pass
        return FILE_BYTES / 2**20 / written, FILE_BYTES / 2**20 / (time.perf_counter() - began)
    finally:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    cli.run(main)
