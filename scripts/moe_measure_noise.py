"""Measure what rounding to int8 does to the weights of a training whose gradients carry nothing.

In:  training configs (each a schedule), an int8 core and the BF16 checkpoint that it was built from, encoded rows.
Out: --report: for each schedule, after all of its steps,
       codes_rms, percent_of_rms   how far the weights are from where exact arithmetic would have put them, in steps of
                                   the int8 codes and in per cent of the weights' RMS, with the config's carry
       updates                     the same for each carry and three kinds of gradients: random (normal), sign (random
                                   signs), constant; and for feedback of the rounding error in factored form
       kld                         mean KL divergence in nats per token of the core from its start, for each carry
     and the KL divergence of Q8_0 from the BF16 checkpoint on the same rows.

The update is the training's own (optimizer.py, int8.py). The distances are taken on matrices of normal weights with a
deviation of 0.02, as large models have; the KL divergence by moving every expert of the core. A config in epochs is as
long as --epoch-rows says. Refused with exit code 2, the report kept as NAME.failed.json, when a schedule leaves more
than half a code, or costs more KL divergence than Q8_0.

  .venv/bin/python scripts/moe_measure_noise.py --core runs/tiny/core --model models/tiny \\
      --rows runs/tiny/moe/proof/valid.jsonl --work runs/tiny/moe/noise --report reports/tiny/rounding_noise.json \\
      configs/*-moe.json
"""

from pathlib import Path

import mlx.core as mx
import numpy as np
from tqdm import tqdm

from kxl.base import cli, code, report
from kxl.base.cli import UserError
from kxl.base.files import read_json, shown, write_json
from kxl.model import blas, generate
from kxl.model.batches import make_batch
from kxl.model.safetensors_io import bf16_to_float32
from kxl.moe import core as moe_core
from kxl.moe import int8
from kxl.moe import rows as moe_rows
from kxl.moe.int8 import CARRIES
from kxl.moe.layers import Blocks
from kxl.moe.optimizer import ExpertOptimizer
from kxl.moe.rows import learning_rate, steps_of
from kxl.moe.settings import check_settings
from kxl.moe.streamed import StepOptions, log_probabilities

DEVIATION = 0.02  # of the weights of large models' experts
KINDS = ("random", "sign", "constant")
MOST_CODES = 0.5
POOL = 1 << 22  # random numbers, of which each gradient takes a stretch


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("configs", type=Path, nargs="+", help="training configs")
    parser.add_argument("--core", type=Path, required=True, help="int8 core")
    parser.add_argument("--model", type=Path, required=True, help="BF16 checkpoint that the core was built from")
    parser.add_argument("--rows", type=Path, required=True, help="encoded rows for the KL divergence")
    parser.add_argument("--epoch-rows", type=int, default=582, help="rows of an epoch, for configs in epochs")
    parser.add_argument("--kld-rows", type=int, default=32, help="how many rows are taken")
    parser.add_argument("--seed", type=int, default=0, help="of the drawn weights and updates (default: 0)")
    parser.add_argument("--distances-only", action="store_true", help="leave the KL divergence out: a minute, not ten")
    parser.add_argument("--work", type=Path, required=True, help="folder of what is measured so far")
    parser.add_argument("--report", type=Path, required=True, help="report (JSON)")
    args = parser.parse_args()
    blas.use_fast_blas()

    configs = {path.stem.removesuffix("-moe"): check_settings(read_json(path), shown(path)) for path in args.configs}
    model = read_json(args.core / "config.json")
    model.pop("quantization", None)
    rows = moe_rows.read(args.rows, model["vocab_size"], 1 << 30)[: args.kld_rows]
    files = [report.describe_input(path) for path in (args.core, args.model, args.rows)]
    kept = Kept(
        args.work, {"files": files, "rows": len(rows), "seed": args.seed, "code": code.describe(Path(__file__).name)}
    )
    results = {"schedules": {}}
    if not args.distances_only:
        results["tokens"] = sum(len(row["tokens"]) for row in rows)
        results["q8_0"] = {"kld": kept.take("q8_0", {}, lambda: q8_0(args.model, rows))}
        cli.say(f"Q8_0: KL divergence {results['q8_0']['kld']:.6f} over {results['tokens']:,} tokens")
    for name, settings in configs.items():
        steps = steps_of(settings, args.epoch_rows)
        entry = {"steps": steps, "carry_bits": settings["carry_bits"], "learning_rate": settings["learning_rate"]}
        now = {**settings, "steps": steps}
        entry["updates"] = {
            kind: kept.take(f"{name}-{kind}", now, lambda: distances(model, settings, steps, kind, args.seed))
            for kind in KINDS
        }
        if not args.distances_only:
            entry["kld"] = {
                str(bits): kept.take(
                    f"{name}-{bits}", now, lambda: moved_divergence(args.core, settings, steps, bits, rows, args.seed)
                )
                for bits in CARRIES
            }
        shipped = entry["updates"]["random"][str(settings["carry_bits"])]
        entry |= {key: shipped[key] for key in ("codes_rms", "percent_of_rms")}
        results["schedules"][name] = entry
        cli.say(
            f"{name}: {steps} steps leave {entry['codes_rms']} codes, {entry['percent_of_rms']} % of the RMS; without "
            f"a carry {entry['updates']['random']['0']['codes_rms']} codes; KL divergence "
            f"{entry.get('kld', 'not measured')}"
        )
    missed = misses(results)
    settings = {"epoch_rows": args.epoch_rows, "seed": args.seed, "deviation": DEVIATION, "kld_rows": args.kld_rows}
    inputs = [*args.configs, args.core, args.model / "model.safetensors", args.rows]
    report.write_gated(args.report, not missed, inputs, settings, results)
    if missed:
        raise UserError(f"{shown(report.failed_path(args.report))}: {'; '.join(missed)}")
    said = "KL divergence not measured" if args.distances_only else "none costs as much as Q8_0"
    print(f"{shown(args.report)}: no schedule leaves more than {MOST_CODES} codes; {said}")


def misses(results: dict) -> list[str]:
    """What the limits do not allow, in words."""
    missed = []
    for name, entry in results["schedules"].items():
        if entry["codes_rms"] > MOST_CODES:
            missed.append(f"{name}: rounding leaves {entry['codes_rms']} codes, {MOST_CODES} are the limit")
        if "kld" in entry and entry["kld"][str(entry["carry_bits"])] >= results["q8_0"]["kld"]:
            missed.append(f"{name}: rounding costs as much KL divergence as Q8_0: raise carry_bits")
    return missed


class Exact(ExpertOptimizer):
    """Adds the updates up in float64, `moved` by matrix, and changes no code."""

    def __init__(self, core, settings):
        super().__init__(core, settings)
        self.moved = {id(matrix): np.zeros(matrix.codes.shape) for matrix in core.experts.values()}

    def _move(self, matrix, gradient, rows, columns, part, key) -> int:
        self.moved[id(matrix)][part] -= gradient[part].astype(np.float64) * columns * rows[part, None]
        return 0


class Factored(ExpertOptimizer):
    """Feeds back what rounding dropped as one number per row and per column, the cheapest form of error feedback."""

    def __init__(self, core, settings):
        super().__init__(core, settings)
        self.dropped = {}

    def _move(self, matrix, gradient, rows, columns, part, key) -> int:
        place = (id(matrix), part.start)
        by_row, by_column = self.dropped.get(place, (0, 0))
        wanted = gradient[part] * columns * rows[part, None] + by_row + by_column
        before = _weights(matrix, part)
        changed = int8.subtract(matrix, part, wanted.copy(), self._noise(*key))
        left = wanted - (before - _weights(matrix, part))
        by_row = left.mean(1, keepdims=True)
        self.dropped[place] = by_row, (left - by_row).mean(0, keepdims=True)
        return changed


def _weights(matrix: int8.Int8Matrix, rows: slice) -> np.ndarray:
    return int8.dequantize(int8.Int8Matrix(matrix.codes[rows], matrix.scales[rows], matrix.biases[rows]))


def distances(config: dict, settings: dict, steps: int, kind: str, seed: int) -> dict:
    """{carry, or "factored": how far the weights of an expert are from exact arithmetic at the end}."""
    small = {**config, "num_hidden_layers": 1, "num_dense_layers": 0, "layer_types": ["conv"], "num_experts": 1}
    small |= {"num_experts_per_tok": 1, "vocab_size": 64}

    def fresh(bits: int):
        core = moe_core.random(small, settings["group_size"], seed)
        rng = np.random.default_rng(seed)
        for name, matrix in core.experts.items():
            values = DEVIATION * rng.standard_normal(matrix.codes.shape, dtype=np.float32)
            core.experts[name] = int8.quantize(values, core.group)
        core.set_carry(bits)
        return core

    cores = {str(bits): fresh(bits) for bits in CARRIES} | {"factored": fresh(0), "exact": fresh(0)}
    kinds = {"factored": Factored, "exact": Exact}
    optimizers = {name: kinds.get(name, ExpertOptimizer)(core, settings) for name, core in cores.items()}
    rng = np.random.default_rng((seed, KINDS.index(kind)))
    for step in tqdm(range(steps), desc=f"{kind} updates", dynamic_ncols=True):
        gradients = [_gradient(kind, matrix.codes.shape, rng) for matrix in cores["0"].expert(0, 0)]
        for optimizer in optimizers.values():
            optimizer.begin(step, learning_rate(settings, step, steps))
            optimizer.counted(0, np.ones(1, int))
            optimizer.update(0, 0, 0, gradients)
    exact = cores.pop("exact")
    moved = {name: optimizers["exact"].moved[id(matrix)] for name, matrix in exact.experts.items()}
    return {name: _distance(core, exact, moved) for name, core in cores.items()}


def _gradient(kind: str, shape: tuple, rng: np.random.Generator) -> np.ndarray:
    if kind == "constant":
        return np.ones(shape, np.float32)
    values = rng.standard_normal(shape, dtype=np.float32)
    return np.sign(values) if kind == "sign" else values


def _distance(core, start, moved: dict) -> dict:
    """In steps of the codes: codes_rms of the weights, alone_rms of the codes alone, moved_rms of what was wanted."""
    squares, count = dict.fromkeys(("codes", "alone", "moved", "weights", "off"), 0.0), 0
    for name, matrix in core.experts.items():
        step = bf16_to_float32(matrix.scales).repeat(matrix.group, axis=1)
        began = int8.dequantize(start.experts[name]).astype(np.float64)
        off = int8.dequantize(matrix) - (began + moved[name])
        values = {"codes": off / step, "alone": off / step - int8.carried(matrix), "moved": moved[name] / step}
        for key, value in {**values, "weights": began, "off": off}.items():
            squares[key] += np.square(value, dtype=np.float64).sum()
        count += off.size
    rms = {key: (value / count) ** 0.5 for key, value in squares.items()}
    return {
        "codes_rms": round(rms["codes"], 4),
        "alone_rms": round(rms["alone"], 4),
        "moved_rms": round(rms["moved"], 4),
        "percent_of_rms": round(100 * rms["off"] / rms["weights"], 4),
    }


def moved_divergence(folder: Path, settings: dict, steps: int, bits: int, rows: list[dict], seed: int) -> float:
    """Mean KL divergence of the core with a carry of `bits` after all steps of random updates from itself before."""
    core, options = moe_core.load(folder), StepOptions(Blocks(), "float32")
    core.set_carry(bits)

    def answers() -> list[np.ndarray]:
        batches = (make_batch([(row["tokens"], row["mask"])]) for row in rows)
        return [np.array(log_probabilities(core, batch, options)) for batch in batches]

    before, optimizer, rng = answers(), ExpertOptimizer(core, settings), np.random.default_rng((seed, 9))
    pool, experts = rng.standard_normal(POOL, dtype=np.float32), core.config["num_experts"]
    for step in tqdm(range(steps), desc=f"all experts, {bits} bits", dynamic_ncols=True):
        optimizer.begin(step, learning_rate(settings, step, steps))
        for layer in core.moe_layers:
            optimizer.counted(layer, np.ones(experts, int))
            for expert in range(experts):
                shapes = [matrix.codes.shape for matrix in core.expert(layer, expert)]
                places = rng.integers(0, POOL - max(a * b for a, b in shapes), len(shapes))
                gradients = [pool[at : at + a * b].reshape(a, b) for at, (a, b) in zip(places, shapes)]
                optimizer.update(0, layer, expert, gradients)
    return round(divergence(before, answers()), 7)


class Kept:
    """Results that are on the disk already, or are made now; a command that was stopped goes on there."""

    def __init__(self, folder: Path, key: dict):
        self.folder, self.key = folder, key

    def take(self, name: str, settings: dict, make):
        path, key = self.folder / f"{name}.json", {**self.key, "settings": settings}
        if path.is_file() and read_json(path)["key"] == key:
            return read_json(path)["made"]
        made = make()
        write_json(path, {"key": key, "made": made})
        return made


def divergence(before: list[np.ndarray], after: list[np.ndarray]) -> float:
    """Mean over tokens of the KL divergence, in nats."""
    total = sum((np.exp(p) * (p - q)).sum(dtype=np.float64) for p, q in zip(before, after))
    return total / sum(len(p) for p in before)


def q8_0(folder: Path, rows: list[dict]) -> float:
    """KL divergence of the checkpoint as Q8_0 from itself, with the tensors that llama.cpp quantizes."""
    from gguf import GGMLQuantizationType, quants
    from mlx.utils import tree_flatten

    model = generate.load(folder)
    model.set_dtype(mx.float32)

    def of() -> list[np.ndarray]:
        logits = (model(mx.array(row["tokens"][None, :-1]))[0] for row in rows)
        return [np.array(one - mx.logsumexp(one, axis=-1, keepdims=True)) for one in logits]

    before = of()
    kind, rounded = GGMLQuantizationType.Q8_0, []
    for name, value in tree_flatten(model.parameters()):
        if (
            value.ndim >= 2
            and value.shape[-1] % 32 == 0
            and not name.endswith(("feed_forward.gate.weight", "conv.weight"))
        ):
            plain = np.array(value)
            rounded.append((name, mx.array(quants.dequantize(quants.quantize(plain, kind), kind).reshape(plain.shape))))
    model.load_weights(rounded, strict=False)
    return round(divergence(before, of()), 7)


if __name__ == "__main__":
    cli.run(main)
