"""Compare the streamed step's gradients with autograd through mlx-lm's model, in float32 and as training ships them.

In:  a core (moe_build_core.py), encoded rows (moe_encode_rows.py), a training config for its block sizes.
Out: --report: for layer inputs kept in float32 and in BF16 (what training keeps), how far the gradients of all experts
     and routers are from mx.grad of the whole model at once, in float32 and without any rounding.

  .venv/bin/python scripts/moe_check_gradients.py --core runs/tiny/core --rows runs/tiny/moe/valid.jsonl \\
      --config configs/tiny-moe.json --report runs/tiny/results/reports/gradients.json

In float32 the two must be the same but for the order of sums; more than 1e-5 is refused, the report kept as
NAME.failed.json. In BF16 they are not: each layer's input is rounded, and where two experts score alike the other one
is chosen. Every token of a row is scored: where a model knows an answer already, its gradient is a small difference of
large numbers, and either way of adding them up is noise.
"""

from pathlib import Path

from kxl.base import cli
from kxl.base.cli import UserError
from kxl.base.files import read_json, scratch_dir, shown
from kxl.model import blas
from kxl.model.layouts import mlx_tensors

SAME = 1e-5  # of float32 sums in another order, all gradients as one vector
PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--core", type=Path, required=True, help="int8 core")
    parser.add_argument("--rows", type=Path, required=True, help="encoded rows; the shortest are taken, one by one")
    parser.add_argument("--config", type=Path, required=True, help="training config")
    parser.add_argument("--examples", type=int, default=4, help="how many rows")
    parser.add_argument("--report", type=Path, required=True, help="report (JSON)")
    args = parser.parse_args()
    blas.use_fast_blas()

    from kxl.base import report
    from kxl.moe import core as moe_core
    from kxl.moe import rows as moe_rows
    from kxl.moe.streamed import KEEP

    settings = read_json(args.config)
    core = moe_core.load(args.core)
    rows = moe_rows.read(args.rows, core.config["vocab_size"], settings["max_tokens"])
    rows = sorted(rows, key=lambda row: len(row["tokens"]))[: args.examples]
    results = {keep: compare(core, rows, settings["blocks"], keep) for keep in KEEP}
    results["tokens"] = [len(row["tokens"]) for row in rows]
    same = results["float32"]["together"] < SAME
    report.write_gated(
        args.report,
        same,
        [args.core, args.rows, args.config],
        {"examples": args.examples, "blocks": settings["blocks"], "same_below": SAME, "scored": "every token"},
        results,
    )
    summary = ", ".join(
        f"{keep} {results[keep]['together']:.2g}, at most {results[keep]['largest']:.2g}" for keep in KEEP
    )
    if not same:
        raise UserError(
            f"{shown(report.failed_path(args.report))}: relative differences {summary}: in float32 they must stay "
            "below "
            f"{SAME} together; the streamed backward is wrong, see tests/moe/test_streamed.py"
        )
    print(f"{shown(args.report)}: relative difference of the gradients: {summary}")


def compare(core, rows: list[dict], blocks: dict, keep: str) -> dict:
    """StepOptions far the streamed gradients of some rows are from autograd's, layer inputs kept in `keep`.

    Per matrix the norm of the difference over the norm of the exact gradient: the median and the largest of them;
    `together` is the same of all matrices as one vector. Averages over the rows, but for the largest.
    """
    import numpy as np

    from kxl.model.batches import make_batch
    from kxl.moe.layers import Blocks
    from kxl.moe.streamed import StepOptions, streamed_step

    together, single = [], []
    with scratch_dir() as folder:
        model, head = mlx_lm_model(core, Path(folder) / "core")
        for row in rows:
            batch, streamed = make_batch([(row["tokens"], np.ones(len(row["tokens"]), bool))]), {}
            streamed_step(core, batch, keep_gradients(streamed), StepOptions(Blocks(**blocks), keep))
            _, exact = whole_gradients(model, head, batch, "float32")
            # An expert that no token chose in either way has no gradient in either way.
            pairs = [(streamed.get(key, 0.0 * gradient), gradient) for key, gradient in exact.items()]
            apart = np.array([np.linalg.norm(ours - gradient) for ours, gradient in pairs])
            norms = np.array([np.linalg.norm(gradient) for _, gradient in pairs])
            if np.any(apart[norms == 0] > 0) and keep == "float32":
                raise UserError(f"row {row['row']}: an expert that no token chose was handed a gradient")
            together.append(float(np.linalg.norm(apart) / np.linalg.norm(norms)))
            single.append(apart[norms > 0] / norms[norms > 0])
    return {
        "together": round(sum(together) / len(together), 9),
        "median": round(float(np.median(np.concatenate(single))), 9),
        "largest": round(float(np.concatenate(single).max()), 9),
        "matrices": int(sum(map(len, single))),
    }


def keep_gradients(kept: dict):
    """An update for streamed_step that changes nothing: gradients go to `kept` by (layer, expert or None, matrix)."""
    import numpy as np

    def update(number, layer, expert, gradients):
        for place, gradient in enumerate(gradients):
            assert (layer, expert, place) not in kept, "a gradient was handed out twice"
            kept[layer, expert, place] = np.array(gradient)

    return update


def mlx_lm_model(core, folder: Path):
    """(mlx-lm's model with the core's dequantized weights in float32, its head or None where it is tied).

    The core is written to `folder` and read back as any checkpoint.
    """
    import mlx.core as mx
    from mlx_lm.models import lfm2_moe

    from kxl.model import checkpoint
    from kxl.moe import core as moe_core

    moe_core.save(folder, core)
    saved = checkpoint.read(folder)
    arguments = {"full_attn_idxs": None, **saved.config}
    if not saved.config["tie_word_embeddings"]:
        arguments["vocab_size"] = core.config["vocab_size"]
    model = lfm2_moe.Model(lfm2_moe.ModelArgs.from_dict(arguments))
    weights = {tensor.name: mx.array(tensor.read()) for tensor in mlx_tensors(saved)}
    head = weights.pop("lm_head.weight", None)
    model.load_weights(list(weights.items()))
    return model, head


def whole_gradients(model, head, batch, keep: str) -> tuple[float, dict]:
    """(loss, {(layer, expert or None, matrix): gradient}) by mx.grad through mlx-lm's whole model.

    With `keep` bfloat16 the inputs of MoE layers are rounded as a step rounds them, and the gradient goes straight
    through: what a step in BF16 must give, but not what exact arithmetic gives.
    """
    import mlx.core as mx
    import mlx.nn as nn
    import numpy as np

    rounded = {
        "float32": lambda x: x,
        "bfloat16": lambda x: x + mx.stop_gradient(x.astype(mx.bfloat16).astype(mx.float32) - x),
    }[keep]
    tokens, targets, weights = mx.array(batch.tokens), mx.array(batch.targets), mx.array(batch.weights)
    layers = model.model.layers
    moe = [i for i, layer in enumerate(layers) if hasattr(layer.feed_forward, "switch_mlp")]

    def loss(parameters):
        for i, (gate, *matrices) in zip(moe, parameters, strict=True):
            stacked = {name: {"weight": weight} for name, weight in zip(PROJECTIONS, matrices, strict=True)}
            layers[i].feed_forward.update({"gate": {"weight": gate}, "switch_mlp": stacked})
        x = model.model.embed_tokens(tokens)
        for i, layer in enumerate(layers):
            x = layer(rounded(x) if i in moe else x, "causal" if layer.is_attention_layer else None)
        x = model.model.embedding_norm(x)
        logits = x @ head.T if head is not None else model.model.embed_tokens.as_linear(x)
        return (nn.losses.cross_entropy(logits, targets) * weights).sum() / weights.sum()

    parameters = [
        [layers[i].feed_forward.gate.weight, *(layers[i].feed_forward.switch_mlp[name].weight for name in PROJECTIONS)]
        for i in moe
    ]
    value, gradients = mx.value_and_grad(loss)(parameters)
    mx.eval(value, gradients)
    by_matrix = {}
    for i, (gate, *matrices) in zip(moe, gradients, strict=True):
        by_matrix[i, None, 0] = np.array(gate)
        for place, stacked in enumerate(matrices):
            for expert, gradient in enumerate(np.array(stacked)):
                by_matrix[i, expert, place] = gradient
    return value.item(), by_matrix


if __name__ == "__main__":
    cli.run(main)
