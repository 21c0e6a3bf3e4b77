"""Train the tiny LFM2-MoE from nothing, on requests that never repeat.

In:  configs/tiny-train.json, the tokenizer of tiny_train_tokenizer.py, the generator (kxl/tiny/rows.py).
Out: MODEL/model.safetensors and config.json as mlx_lm saves them; a training report and a log.

Each step draws a context and rows that fit it (kxl/tiny/batches.py); the context's tokens are computed once and shared
by the step's rows. Loss is on assistant turns, and lightly on the rest of the row. The random state of a step is its
number, so a run that was stopped goes on as if it had not been.

    .venv/bin/python scripts/tiny_train.py --model models/tiny --work runs/tiny-train

Two cores need about two hours; the same command resumes.
"""

import json
import math
import random
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from kxl.base import cli, jsonl, report
from kxl.base.files import ROOT, atomic_path, read_json, shown
from kxl.eval import contamination
from kxl.model import blas, checkpoint
from kxl.tiny import contexts, recorded
from kxl.tiny.batches import Batch, Encoder, draw_batch, draw_context, shares_of
from kxl.tiny.model import TinyLfm2Moe
from kxl.tiny.optimizer import build_optimizers, set_learning_rates
from kxl.tiny.rows import USUAL


def row_states(model: TinyLfm2Moe, prefix: list[int], with_gradient: bool) -> list:
    """The states of the shared prefix that each row goes on from (model.forward)."""
    tokens = torch.tensor([prefix])
    if with_gradient:
        return model(tokens)[1]
    with torch.no_grad():
        return model(tokens)[1]


def loss_of(model: TinyLfm2Moe, states: list, batch: Batch, other_weight: float) -> tuple[torch.Tensor, float]:
    """(weighted mean cross-entropy in nats, share of emitted tokens predicted right).

    Tokens that the model has to emit weigh 1, other real ones `other_weight`, padding nothing.
    """
    targets, emitted = batch.ids[:, 1:], batch.emitted[:, 1:]
    hidden, _ = model(batch.ids[:, :-1], states)
    weight = torch.where(emitted, 1.0, other_weight) * batch.real[:, 1:]
    scored = weight > 0
    logits, target, weight = model.logits(hidden[scored]), targets[scored], weight[scored]
    loss = (F.cross_entropy(logits.float(), target, reduction="none") * weight).sum() / weight.sum()
    return loss, (logits.argmax(-1) == target)[emitted[scored]].float().mean().item()


@torch.no_grad()
def exact_rows(
    model: TinyLfm2Moe,
    encoder: Encoder,
    settings: dict,
    forbidden: contamination.Prompts,
    kinds: list[str],
    batches: int,
    seed: int,
) -> dict:
    """{context or kind of row: {"rows", "exact"}} of held-out rows.

    exact: the share of the rows of which every emitted token is the model's first choice. `batches` of each of the
    context `kinds`.
    """
    model.eval()
    rows, exact = Counter(), Counter()
    shares = replace(shares_of(settings), finalizations=USUAL.finalizations)  # in one share, so that stages compare
    for kind in kinds:
        for number in range(batches):
            rng = random.Random(f"{seed} {kind} {number}")
            context = contexts.context(rng, kind)
            batch = draw_batch(rng, encoder, context, settings, forbidden, heldout=True, shares=shares)
            hidden, _ = model(batch.ids[:, :-1], row_states(model, encoder.prefix(context), False))
            right = (model.logits(hidden).argmax(-1) == batch.ids[:, 1:]) | ~batch.emitted[:, 1:]
            for all_right, kind_of_row in zip(right.all(1).tolist(), batch.kinds):
                for name in (kind, kind_of_row):
                    rows[name] += 1
                    exact[name] += all_right
    model.train()
    return {name: {"rows": count, "exact": round(exact[name] / count, 4)} for name, count in sorted(rows.items())}


def save_state(path: Path, model, optimizers, step: int, history: list, settings: dict) -> None:
    """Everything that a stopped run goes on from, whole or not at all."""
    state = {
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "step": step,
        "history": history,
        "settings": settings,
    }
    with atomic_path(path) as partial:
        torch.save(state, partial)


def resume(path: Path, model, optimizers, settings: dict) -> tuple[int, list]:
    """(steps done, history) of the state at `path`, loaded into model and optimizers; (0, []) where there is none."""
    if not path.exists():
        return 0, []
    saved = torch.load(path, weights_only=False)
    # The number of steps may change while the learning rate is still flat: what was done stays the same.
    flat = saved["step"] <= min((1 - given["decay"]) * given["steps"] for given in (saved["settings"], settings))
    free = {"steps": 0, "decay": 0} if flat else {}
    if {**saved["settings"], **free} != {**settings, **free}:
        raise cli.UserError(f"{shown(path)} was made with other settings; delete it to start anew")
    model.load_state_dict(saved["model"])
    for optimizer, held in zip(optimizers, saved["optimizers"]):
        optimizer.load_state_dict(held)
    cli.say(f"resuming at step {saved['step']}")
    return saved["step"], saved["history"]


def train_step(
    model: TinyLfm2Moe, optimizers: list, encoder: Encoder, settings: dict, forbidden: contamination.Prompts, step: int
) -> tuple[float, float, int]:
    """(loss in nats, share of emitted tokens predicted right, emitted tokens) of step `step`, from 0."""
    rng = random.Random(f"{settings['seed']} {step}")
    context = draw_context(rng, settings, step)
    simple = not context["tools"]
    batch = draw_batch(rng, encoder, context, settings, forbidden, simple=simple, shares=shares_of(settings))
    prefix = encoder.prefix(context)
    with_gradient = len(prefix) < 1000 or rng.random() < settings["prefix_gradient"]
    loss, right = loss_of(model, row_states(model, prefix, with_gradient), batch, settings["other_weight"])
    if not math.isfinite(loss.item()):
        raise cli.UserError(
            f"the loss is {loss.item()} at step {step}; lower the learning rates in configs/tiny-train.json"
        )
    model.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), settings["clip"])
    set_learning_rates(optimizers, settings, step)
    for optimizer in optimizers:
        optimizer.step()
    for moe in model.moe_layers():
        moe.balance(settings["balance_rate"])
    return loss.item(), right, int(batch.real.sum())


def train(settings: dict, encoder: Encoder, work: Path, start_from: Path | None = None) -> tuple[TinyLfm2Moe, list]:
    """Train to the last step, resuming from WORK/state.pt; the first weights are random or those of `start_from`.

    Returns the model and its history: one entry per evaluation.
    """
    torch.manual_seed(settings["seed"])
    model = TinyLfm2Moe(settings["model"])
    if start_from:
        model.load_hf({name: torch.from_numpy(t.read()) for name, t in checkpoint.read(start_from).tensors.items()})
    optimizers = build_optimizers(model, settings)
    state, last = work / "state.pt", settings["steps"]
    start, history = resume(state, model, optimizers, settings)
    forbidden = contamination.everything()
    bar = tqdm(range(start, last), initial=start, total=last, unit="step", dynamic_ncols=True)
    seen = history[-1]["tokens"] if history else 0
    recent: list[float] = []
    clock = time.monotonic()
    for step in bar:
        loss, right, tokens = train_step(model, optimizers, encoder, settings, forbidden, step)
        seen, done = seen + tokens, step + 1
        recent.append(loss)
        bar.set_postfix(loss=f"{np.mean(recent[-20:]):.3f}", right=f"{right:.3f}")
        if done % settings["eval_every"] and done < last:
            continue
        kinds, batches = (settings["eval_contexts"], 1) if done < last else (list(contexts.CONTEXTS), 4)
        entry = {
            "step": done,
            "tokens": seen,
            "loss": round(float(np.mean(recent)), 4),
            "exact": exact_rows(model, encoder, settings, forbidden, kinds, batches, settings["seed"]),
            "seconds": round(time.monotonic() - clock),
        }
        history.append(entry)
        recent.clear()
        save_state(state, model, optimizers, done, history, settings)
        bar.write(json.dumps(entry))
    return model, history


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--config", type=Path, default=ROOT / "configs/tiny-train.json", help="settings of the model and its training"
    )
    parser.add_argument(
        "--model", type=Path, required=True, help="folder with the tokenizer; the checkpoint goes there"
    )
    parser.add_argument(
        "--start-from",
        type=Path,
        help="checkpoint folder whose weights and model config are the first ones (default: random weights)",
    )
    parser.add_argument("--work", type=Path, required=True, help="folder of the resumable state")
    parser.add_argument("--report", type=Path, help="training report (JSON)")
    parser.add_argument("--log", type=Path, help="one line per evaluation")
    args = parser.parse_args()
    blas.use_kept_memory()

    settings = read_json(args.config)["training"]
    encoder = Encoder(args.model)
    if args.start_from:
        settings["model"] = read_json(args.start_from / "config.json")
    settings["model"]["vocab_size"] = encoder.tokenizer.get_vocab_size()
    start = sorted(args.start_from.glob("*.safetensors")) if args.start_from else []
    used = [
        report.describe_input(p)
        for p in (args.config, args.model / "tokenizer.json", recorded.RESULTS, recorded.SEQUENCES, *start)
    ]
    args.work.mkdir(parents=True, exist_ok=True)
    model, history = train(settings, encoder, args.work, args.start_from)
    weights = {name: weight.numpy() for name, weight in model.hf_tensors().items()}
    checkpoint.save_trained(args.model, settings["model"], weights)
    if args.report:
        results = {"parameters": sum(p.numel() for p in model.parameters()), "history": history}
        made = report.describe_input(args.model / "model.safetensors")  # ties the stages to the model that is shipped
        report.write(args.report, used, settings, {**results, "made": made})
    if args.log:
        jsonl.write(args.log, history)
    print(f"tiny model: {settings['steps']} steps, {history[-1]['tokens']:,} tokens, in {shown(args.model)}")


if __name__ == "__main__":
    cli.run(main)
