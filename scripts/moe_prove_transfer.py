"""Prove what training all experts in int8 is worth: teach an undamaged model new tools, five ways, on equal tokens.

In:  an int8 core and the BF16 checkpoint that it was built from; encoded rows of new tools (moe_build_new_rows.py:
     train.jsonl, tune.jsonl, test.jsonl) and of what the model knows already (--old); a training config.
Out: --report, results.undamaged: for each method, at the config's learning rate and at the best of --rates for it:
     gain (nats per scored token on test), exact (test rows of which every scored token is the first choice), kld and
     old_loss (what it forgot: KL divergence to its start on old rows, and how much their loss rose), as mean, spread
     (standard deviation) and values over the seeds. A seed draws another order of the rows and other rounding noise.

  carry      streamed int8 with the config's carry         grouped  the same in groups of layers
  no_carry   streamed int8 without one                     adamw    AdamW on the same experts and routers in float32
  lora       rank 16 on attention, convolution and dense layers of the BF16 checkpoint, AdamW

A rate is chosen by the loss on the tune rows with seed 0; test rows choose nothing. Every run is a file in --work; the
command goes on where it was stopped, and --minutes stops it by itself. A report is written when all runs are there; one
that is at --report keeps its other results.

  .venv/bin/python scripts/moe_prove_transfer.py --core runs/tiny/core --model models/tiny --new runs/tiny/moe/new \\
      --old runs/tiny/moe/proof/valid.jsonl --config configs/tiny-moe.json --work runs/tiny/moe/transfer \\
      --report reports/tiny/moe_proof.json
"""

import time
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np

from kxl.base import cli, report
from kxl.base.cli import UserError
from kxl.base.files import read_json, scratch_dir, shown, write_json
from kxl.lora import adapter, grouped_experts
from kxl.model import blas, generate
from kxl.model.batches import make_batch
from kxl.moe import core as moe_core
from kxl.moe import hardware, int8
from kxl.moe import rows as moe_rows
from kxl.moe.core import MATRICES, MixedCore, expert_name, router_name
from kxl.moe.layers import Blocks
from kxl.moe.run import Run
from kxl.moe.settings import check_settings
from kxl.moe.streamed import StepOptions, log_probabilities, streamed_step

METHODS = ("carry", "no_carry", "grouped", "adamw", "lora")
LORA = {
    "rank": 16,
    "alpha": 32,
    "modules": ["q_proj", "k_proj", "v_proj", "out_proj", "in_proj", "gate_proj", "up_proj", "down_proj"],
    "embedding": "none",
}
MEASURES = ("gain", "exact", "kld", "old_loss")
ENOUGH = 0.97  # of the gain of AdamW in float32


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--core", type=Path, required=True, help="int8 core to start from")
    parser.add_argument("--model", type=Path, required=True, help="BF16 checkpoint that the core was built from")
    parser.add_argument("--new", type=Path, required=True, help="folder with train.jsonl, tune.jsonl and test.jsonl")
    parser.add_argument("--old", type=Path, required=True, help="encoded rows of what the model knows")
    parser.add_argument("--config", type=Path, required=True, help="training config")
    parser.add_argument("--steps", type=int, default=60, help="of each run")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each method and rate")
    parser.add_argument("--rates", type=float, nargs="+", default=[3e-5, 3e-4, 1e-3], help="tried beside the config's")
    parser.add_argument("--old-rows", type=int, default=16, help="how many of the old rows are asked")
    parser.add_argument("--minutes", type=float, help="stop after the run that ends later than this")
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--report", type=Path, required=True, help="report (JSON)")
    args = parser.parse_args()
    blas.use_fast_blas()

    settings = check_settings(read_json(args.config), shown(args.config))
    settings |= {"steps": args.steps, "epochs": None, "storage": "resident", "warmup_steps": args.steps // 10}
    settings |= {"validation_rows": 0, "checkpoint_every": args.steps}
    vocabulary = read_json(args.core / "config.json")["vocab_size"]
    parts = {name: moe_rows.read(args.new / f"{name}.jsonl", vocabulary, 1 << 30) for name in ("train", "tune", "test")}
    parts["old"] = moe_rows.read(args.old, vocabulary, 1 << 30)[: args.old_rows]
    ends = time.monotonic() + 60 * args.minutes if args.minutes else None
    runs = Runs(args.core, args.model, settings, parts, args.work, ends)
    tuned = {}
    rates = sorted({settings["learning_rate"], *args.rates})
    for method in METHODS:
        losses = {rate: runs.take(method, rate, 0)["tune"] for rate in rates}
        tuned[method] = min(losses, key=losses.get)
    found = {"own": {}, "tuned": {}}
    for seed in range(args.seeds):
        for method in METHODS:
            for kind, rate in (("own", settings["learning_rate"]), ("tuned", tuned[method])):
                found[kind].setdefault(method, []).append(runs.take(method, rate, seed))
    undamaged = {
        "seeds": args.seeds,
        "steps": args.steps,
        "tokens": found["own"]["carry"][0]["tokens"],
        "rows": {name: len(rows) for name, rows in parts.items()},
        "rates_tried": rates,
        "rates": {"own": dict.fromkeys(METHODS, settings["learning_rate"]), "tuned": tuned},
        **{kind: {method: spread(taken) for method, taken in by.items()} for kind, by in found.items()},
    }
    undamaged["verdict"] = verdict(undamaged)
    so_far = read_json(args.report) if args.report.is_file() else {"settings": settings, "results": {}}
    inputs = [args.new / f"{name}.jsonl" for name in ("train", "tune", "test")]
    inputs += [args.old, args.core, args.model / "model.safetensors", args.config]
    undamaged["inputs"] = [report.describe_input(path) for path in inputs]
    results = {**so_far["results"], "undamaged": undamaged}
    report.write(args.report, so_far.get("inputs", undamaged["inputs"]), so_far["settings"], results)
    print(f"{shown(args.report)}: {undamaged['verdict']['words']}")


class Runs:
    """Every run once: taken from its file, or made now."""

    def __init__(self, core: Path, model: Path, settings: dict, parts: dict, work: Path, ends: float | None):
        self.core, self.model, self.settings, self.parts, self.work = core, model, settings, parts, work
        self.ends, self.before = ends, {}

    def take(self, method: str, rate: float, seed: int) -> dict:
        """Measures of one run. UserError when the time is over."""
        path = self.work / f"{method}-{rate:g}-{seed}.json"
        key = {"settings": self.settings, "core": report.describe_input(self.core / "config.json")["sha256"]}
        key["rows"] = {name: sum(len(row["tokens"]) for row in rows) for name, rows in self.parts.items()}
        if path.is_file() and read_json(path)["key"] == key:
            return read_json(path)["run"]
        if self.ends and time.monotonic() > self.ends:
            raise UserError(
                f"{shown(self.work)}: the time is over; run the same command again to go on with {path.stem}"
            )
        began = time.monotonic()
        settings = {**self.settings, "learning_rate": rate, "seed": seed}
        made = self.lora(settings) if method == "lora" else self.experts(method, settings)
        made |= {"seconds": round(time.monotonic() - began, 1)}
        write_json(path, {"key": key, "run": made})
        cli.say(f"{path.stem}: gain {made['gain']:.4f}, KL divergence on old rows {made['kld']:.5f}")
        return made

    def experts(self, method: str, settings: dict) -> dict:
        """A run that trains all experts and routers of the core."""
        settings["carry_bits"] = 0 if method == "no_carry" else settings["carry_bits"]
        settings["mode"] = "grouped" if method == "grouped" else "streamed"
        core = moe_core.load(self.core)
        options = StepOptions(Blocks(**settings["blocks"]), settings["layer_inputs"])

        def ask(row: dict) -> np.ndarray:
            return np.array(log_probabilities(core, make_batch([(row["tokens"], row["mask"])]), options))

        if method == "adamw":
            core = floats(core)
            before = self.start("adamw", ask)
            train_floats(core, self.parts["train"], settings, options)
        else:
            core.set_carry(settings["carry_bits"])
            before = self.start("no_carry" if method == "no_carry" else "experts", ask)
            with scratch_dir(self.work if self.work.exists() else None) as folder:
                guard = hardware.MemoryGuard(hardware.memory_stop(hardware.psutil.virtual_memory().total))
                Run(core, self.parts["train"], [], settings, folder, {}, guard).train()
        return self.measure(before, ask, settings)

    def lora(self, settings: dict) -> dict:
        """A run that trains an adapter on the checkpoint."""
        model = generate.load(self.model)
        mx.random.seed(settings["seed"])
        grouped_experts.use(model)
        adapter.attach(model, LORA)

        def ask(row: dict) -> np.ndarray:
            logits = model(mx.array(row["tokens"][None, :-1]))[0]
            return np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))

        before = self.start("lora", ask)
        train_adapter(model, self.parts["train"], settings)
        return self.measure(before, ask, settings)

    def start(self, kind: str, ask) -> dict:
        """What a kind of model answers before any training."""
        if kind not in self.before:
            self.before[kind] = {"test": scores(self.parts["test"], ask), "old": [ask(r) for r in self.parts["old"]]}
        return self.before[kind]

    def measure(self, before: dict, ask, settings: dict) -> dict:
        """What a run gained and forgot."""
        after, old = scores(self.parts["test"], ask), [ask(row) for row in self.parts["old"]]
        kld = sum((np.exp(p) * (p - q)).sum(dtype=np.float64) for p, q in zip(before["old"], old))
        losses = [scored_loss(self.parts["old"], answers) for answers in (before["old"], old)]
        places = [
            moe_rows.batch_of(step, len(self.parts["train"]), settings["batch"], settings["seed"])[1]
            for step in range(settings["steps"])
        ]
        return {
            "gain": before["test"]["loss"] - after["loss"],
            "exact": after["exact"],
            "exact_before": before["test"]["exact"],
            "kld": kld / sum(len(p) for p in old),
            "old_loss": losses[1] - losses[0],
            "tune": scores(self.parts["tune"], ask)["loss"],
            "tokens": sum(len(self.parts["train"][place]["tokens"]) for batch in places for place in batch),
        }


def scores(rows: list[dict], ask) -> dict:
    """Loss in nats per scored token, and the rows of which every scored token is the first choice."""
    answers = [ask(row) for row in rows]
    right = 0
    for row, answer in zip(rows, answers):
        places = np.flatnonzero(row["mask"][1:])
        right += bool((answer[places].argmax(-1) == row["tokens"][1:][places]).all())
    return {"loss": scored_loss(rows, answers), "exact": right}


def scored_loss(rows: list[dict], answers: list[np.ndarray]) -> float:
    """Mean loss of the scored tokens."""
    total = count = 0
    for row, answer in zip(rows, answers):
        places = np.flatnonzero(row["mask"][1:])
        total -= answer[places, row["tokens"][1:][places]].sum(dtype=np.float64)
        count += len(places)
    return float(total / count)


class Floats(MixedCore):
    """A core whose experts and routers are float32: `values` by name."""

    def expert_weights(self, layer: int, expert: int) -> list[mx.array]:
        return [self.values[expert_name(layer, expert, matrix)] for matrix in MATRICES]


def floats(core: MixedCore) -> Floats:
    """The same weights in float32."""
    made = Floats(core.config, core.group, core.tokenizer, core.experts, dict(core.plain))
    made.values = {name: mx.array(int8.dequantize(matrix)) for name, matrix in core.experts.items()}
    for layer in core.moe_layers:
        made.plain[router_name(layer)] = np.array(core.weight(router_name(layer)))
    return made


def train_floats(core: Floats, rows: list[dict], settings: dict, options: StepOptions) -> None:
    """AdamW on every expert and router, with the gradients of the streamed step."""
    adam, states = optim.AdamW(learning_rate=0.0, weight_decay=0.0, bias_correction=True), {}

    def move(name: str, weight: mx.array, gradient: mx.array) -> mx.array:
        if name not in states:
            states[name] = {}
            adam.init_single(weight, states[name])
        weight = adam.apply_single(gradient, weight, states[name])
        mx.eval(weight, states[name])
        return weight

    def update(number, layer, expert, gradients) -> None:
        if expert is None:
            name = router_name(layer)
            core.plain[name] = np.array(move(name, mx.array(core.plain[name]), gradients[0]))
        else:
            for matrix, gradient in zip(MATRICES, gradients):
                name = expert_name(layer, expert, matrix)
                core.values[name] = move(name, core.values[name], gradient)

    for step in range(settings["steps"]):
        adam.state["step"] = mx.array(step + 1, mx.uint64)
        adam.learning_rate = moe_rows.learning_rate(settings, step, settings["steps"])
        streamed_step(core, batch_of(rows, settings, step), update, options)


def train_adapter(model: nn.Module, rows: list[dict], settings: dict) -> None:
    """AdamW on the adapter."""
    adam = optim.AdamW(learning_rate=0.0, weight_decay=0.0, bias_correction=True)

    def loss(model, tokens, targets, weights):
        return (nn.losses.cross_entropy(model(tokens), targets) * weights).sum() / weights.sum()

    gradients_of = nn.value_and_grad(model, loss)
    for step in range(settings["steps"]):
        adam.learning_rate = moe_rows.learning_rate(settings, step, settings["steps"])
        batch = batch_of(rows, settings, step)
        _, gradients = gradients_of(model, *map(mx.array, (batch.tokens, batch.targets, batch.weights)))
        adam.update(model, gradients)
        mx.eval(model.trainable_parameters(), adam.state)


def batch_of(rows: list[dict], settings: dict, step: int):
    """The rows of a step, as Run takes them."""
    _, places = moe_rows.batch_of(step, len(rows), settings["batch"], settings["seed"])
    return make_batch([(rows[place]["tokens"], rows[place]["mask"]) for place in places])


def spread(runs: list[dict]) -> dict:
    """Mean, standard deviation and values of each measure over the seeds."""
    made = {"exact_before": runs[0]["exact_before"]}
    for name in MEASURES:
        values = [run[name] for run in runs]
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
        made[name] = {
            "mean": round(float(np.mean(values)), 6),
            "spread": deviation if deviation is None else round(deviation, 6),
            "values": [round(value, 6) for value in values],
        }
    return made


def verdict(undamaged: dict) -> dict:
    """Share of AdamW's gain that streamed int8 with carry reaches, and what it forgets beside it, at tuned rates."""
    carry, adamw = (undamaged["tuned"][name] for name in ("carry", "adamw"))
    share = carry["gain"]["mean"] / adamw["gain"]["mean"]
    forgets = carry["kld"]["mean"] / adamw["kld"]["mean"]
    enough = share >= ENOUGH and forgets <= 1
    words = (
        f"streamed int8 with a carry gains {100 * share:.1f} % of what float32 AdamW gains, over {undamaged['seeds']} "
        f"seeds, and moves {forgets:.2f} times as far on old rows (KL divergence)"
    )
    return {"share_of_adamw": round(share, 4), "kld_of_adamw": round(forgets, 4), "enough": enough, "words": words}


if __name__ == "__main__":
    cli.run(main)
