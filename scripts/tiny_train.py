"""Train the tiny LFM2-MoE from nothing, on requests that never repeat.

In:  configs/tiny-train.json, the tokenizer of tiny_train_tokenizer.py, the generator (tiny_rows).
Out: MODEL/model.safetensors and config.json as mlx_lm saves them; a training report and a log.

Each step draws a context and rows that fit it (tiny_rows); the context's tokens are computed once and
shared by the step's rows. Loss is on assistant turns, and lightly on the rest of the row. The random
state of a step is its number, so a run that was stopped goes on as if it had not been.

    .venv/bin/python scripts/tiny_train.py --model models/tiny --work runs/tiny-train

Two cores need about two hours; the same command resumes.
"""

import json
import math
import random
import re
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from tqdm import tqdm

from kxl.base import cli, jsonl, report
from kxl.base.files import ROOT, atomic_path, read_json, shown
from kxl.chat.tool_syntax import render_calls
from kxl.eval import contamination
from kxl.model import checkpoint, freed_memory
from kxl.tiny import requests
from kxl.tiny import rows as tiny_rows
from kxl.tiny.model import TinyLfm2Moe
from kxl.tiny.muon import Muon


class Encoder:
    """Text of the chat template to token ids; special tokens split it, so pieces encode independently."""

    def __init__(self, folder: Path):
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.end = self.tokenizer.token_to_id("<|im_end|>")
        vocabulary = self.tokenizer.get_vocab()
        words = sorted(token for token in vocabulary if re.fullmatch("[A-Za-z]{2,}", token))
        self.pieces = requests.Pieces(words, [word for word in words if "Ġ" + word in vocabulary])

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def prefix(self, context: dict) -> list[int]:
        """The system block that all rows of a context start with, from <|startoftext|> on."""
        system = context["system"] or ""
        if context["tools"]:
            tools = ", ".join(json.dumps(tool, ensure_ascii=False) for tool in context["tools"])
            system += ("\n" if system else "") + f"List of tools: [{tools}]"
        text = "<|startoftext|>" + (f"<|im_start|>system\n{system}<|im_end|>\n" if system else "")
        return self.encode(text)

    def row(self, messages: list[dict]) -> tuple[list[int], list[bool]]:
        """Token ids of the messages, and for each whether the model has to emit it."""
        ids, emitted = [], []
        for message in messages:
            head = self.encode(f"<|im_start|>{message['role']}\n")
            body = message["content"] or ""
            if message.get("tool_calls"):
                body += render_calls([call["function"] for call in message["tool_calls"]])
            body, tail = self.encode(body) + [self.end], self.encode("\n")
            ids += head + body + tail
            own = message["role"] == "assistant"
            emitted += [False] * len(head) + [own] * len(body) + [False] * len(tail)
        return ids, emitted


def draw_context(rng: random.Random, settings: dict, step: int) -> dict:
    """Copying is learned first, in bare contexts; then in prompts with tool lists, up to Hermes's own."""
    shares = settings["contexts_late"] if step >= settings["early_steps"] else settings["contexts_early"]
    return tiny_rows.context(rng, rng.choices(list(shares), list(shares.values()))[0])


def shares_of(settings: dict) -> dict[str, float]:
    """The shares of kinds of rows that a training config names."""
    return {key: settings[key] for key in ("finalizations", "in_a_row", "introductions") if key in settings}


def draw_batch(
    rng,
    encoder: Encoder,
    context: dict,
    count: int,
    longest: int,
    max_tokens: int,
    forbidden: contamination.Prompts,
    heldout: bool = False,
    simple: bool = False,
    **shares: float,
):
    """At most `count` rows of like length and `max_tokens` tokens, padded: ids [B, S], emitted [B, S] (bool), real [B, S] (bool), kinds; `shares` as tiny_rows.row takes them."""
    names = tiny_rows.tool_names(context)
    pool = []
    while len(pool) < 4 * count:
        row = tiny_rows.row(rng, names, heldout, simple, None if heldout else encoder.pieces, **shares)
        if forbidden.of_row(row["messages"]):
            continue
        ids, emitted = encoder.row(row["messages"])
        if len(ids) <= longest:
            pool.append((ids, emitted, row["kind"]))
    pool.sort(key=lambda item: len(item[0]))
    start = rng.randrange(4) * count
    width = len(pool[start + count - 1][0])
    # Attention over a long prefix costs by the row's tokens: long rows come in smaller batches.
    rows = rng.sample(pool[start : start + count], min(count, max_tokens // width))
    count, width = len(rows), max(len(ids) for ids, _, _ in rows)
    ids, emitted, real = (
        np.zeros((count, width), np.int64),
        np.zeros((count, width), bool),
        np.zeros((count, width), bool),
    )
    for i, (row_ids, row_emitted, _) in enumerate(rows):
        ids[i, : len(row_ids)], emitted[i, : len(row_ids)], real[i, : len(row_ids)] = row_ids, row_emitted, True
    return torch.from_numpy(ids), torch.from_numpy(emitted), torch.from_numpy(real), [kind for _, _, kind in rows]


def row_states(model: TinyLfm2Moe, prefix: list[int], with_gradient: bool):
    tokens = torch.tensor([prefix])
    if with_gradient:
        return model(tokens)[1]
    with torch.no_grad():
        return model(tokens)[1]


def loss_of(model: TinyLfm2Moe, states: list, batch, other_weight: float) -> tuple[torch.Tensor, float]:
    """(weighted mean cross-entropy in nats, share of emitted tokens predicted right)."""
    ids, emitted, real = batch[:3]
    hidden, _ = model(ids[:, :-1], states)
    weight = torch.where(emitted, 1.0, other_weight)[:, 1:] * real[:, 1:]
    take = weight > 0
    logits = model.logits(hidden[take])
    target, weight = ids[:, 1:][take], weight[take]
    loss = (F.cross_entropy(logits.float(), target, reduction="none") * weight).sum() / weight.sum()
    own = emitted[:, 1:][take]
    return loss, (logits.argmax(-1) == target)[own].float().mean().item()


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
    """Share of held-out rows of which every emitted token is the model's first choice, by context and kind of row."""
    model.eval()
    counts: dict[str, list[int]] = {}
    shares = shares_of(settings)
    shares.pop("finalizations", None)  # judged in one share, so that the stages compare
    for kind in kinds:
        for b in range(batches):
            rng = random.Random(f"{seed} {kind} {b}")
            context = tiny_rows.context(rng, kind)
            ids, emitted, real, rows = draw_batch(
                rng,
                encoder,
                context,
                settings["rows"],
                settings["longest"],
                settings["max_tokens"],
                forbidden,
                heldout=True,
                **shares,
            )
            hidden, _ = model(ids[:, :-1], row_states(model, encoder.prefix(context), False))
            right = (model.logits(hidden).argmax(-1) == ids[:, 1:]) | ~emitted[:, 1:]
            for ok, name in zip(right.all(1).tolist(), rows):
                for key in (kind, name):
                    entry = counts.setdefault(key, [0, 0])
                    entry[0] += ok
                    entry[1] += 1
    model.train()
    return {k: {"rows": n, "exact": round(ok / n, 4)} for k, (ok, n) in sorted(counts.items())}


def build_optimizers(model: TinyLfm2Moe, settings: dict) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices, AdamW for embedding, routers, convolutions and norms; parts named in "frozen" do not move."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not any(part in name for part in settings.get("frozen", ())))
    moving = {n: p for n, p in model.named_parameters() if p.requires_grad}
    hidden = {
        n: p
        for n, p in moving.items()
        if p.ndim == 2 and not n.endswith(("embed_tokens.weight", "gate.weight", "operator.weight"))
    }
    others = [p for n, p in moving.items() if n not in hidden]
    muon = Muon(list(hidden.values()), settings["muon_learning_rate"], settings["weight_decay"])
    return [muon, torch.optim.AdamW(others, lr=settings["adam_learning_rate"], betas=(0.9, 0.95), weight_decay=0.0)]


def schedule(settings: dict, step: int) -> float:
    """Share of the peak learning rate: linear warm-up, flat, linear decay to zero over the last part."""
    steps = settings["steps"]
    return min(1, (step + 1) / settings["warmup"], (steps - step) / (settings["decay"] * steps))


def save_state(path: Path, model, optimizers, step: int, history: list, settings: dict) -> None:
    with atomic_path(path) as partial:
        torch.save(
            {
                "model": model.state_dict(),
                "optimizers": [o.state_dict() for o in optimizers],
                "step": step,
                "history": history,
                "settings": settings,
            },
            partial,
        )


def train(settings: dict, encoder: Encoder, work: Path, start_from: Path | None = None) -> tuple[TinyLfm2Moe, list]:
    """Train to the last step, resuming from WORK/state.pt; the first weights are random or those of `start_from`."""
    torch.manual_seed(settings["seed"])
    model = TinyLfm2Moe(settings["model"])
    if start_from:
        model.load_hf({name: torch.from_numpy(t.read()) for name, t in checkpoint.read(start_from).tensors.items()})
    optimizers = build_optimizers(model, settings)
    state, start, history = work / "state.pt", 0, []
    if state.exists():
        saved = torch.load(state, weights_only=False)
        # The number of steps may change while the learning rate is still flat: what was done stays the same.
        flat = saved["step"] <= min((1 - one["decay"]) * one["steps"] for one in (saved["settings"], settings))
        free = {"steps": 0, "decay": 0} if flat else {}
        if {**saved["settings"], **free} != {**settings, **free}:
            raise cli.UserError(f"{shown(state)} was made with other settings; delete it to start anew")
        model.load_state_dict(saved["model"])
        for optimizer, held in zip(optimizers, saved["optimizers"]):
            optimizer.load_state_dict(held)
        start, history = saved["step"], saved["history"]
        cli.say(f"resuming at step {start}")
    forbidden = contamination.everything()
    shares = shares_of(settings)
    bar = tqdm(range(start, settings["steps"]), initial=start, total=settings["steps"], unit="step", dynamic_ncols=True)
    seen = history[-1]["tokens"] if history else 0
    recent: list[float] = []
    clock = time.monotonic()
    for step in bar:
        rng = random.Random(f"{settings['seed']} {step}")
        context = draw_context(rng, settings, step)
        batch = draw_batch(
            rng,
            encoder,
            context,
            settings["rows"],
            settings["longest"],
            settings["max_tokens"],
            forbidden,
            simple=not context["tools"],
            **shares,
        )
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
        for optimizer, peak in zip(optimizers, (settings["muon_learning_rate"], settings["adam_learning_rate"])):
            for group in optimizer.param_groups:
                group["lr"] = peak * schedule(settings, step)
            optimizer.step()
        for moe in model.moe_layers():
            moe.balance(settings["balance_rate"])
        seen += int(batch[2].sum())
        recent.append(loss.item())
        bar.set_postfix(loss=f"{np.mean(recent[-20:]):.3f}", right=f"{right:.3f}")
        done = step + 1
        if done % settings["eval_every"] == 0 or done == settings["steps"]:
            exact = exact_rows(
                model,
                encoder,
                settings,
                forbidden,
                settings["eval_contexts"] if done < settings["steps"] else list(tiny_rows.CONTEXTS),
                1 if done < settings["steps"] else 4,
                settings["seed"],
            )
            history.append(
                {
                    "step": done,
                    "tokens": seen,
                    "loss": round(float(np.mean(recent)), 4),
                    "exact": exact,
                    "seconds": round(time.monotonic() - clock),
                }
            )
            recent.clear()
            save_state(state, model, optimizers, done, history, settings)
            bar.write(json.dumps(history[-1]))
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
    freed_memory.restart_keeping()

    settings = read_json(args.config)["training"]
    encoder = Encoder(args.model)
    if args.start_from:
        settings["model"] = read_json(args.start_from / "config.json")
    settings["model"]["vocab_size"] = encoder.tokenizer.get_vocab_size()
    start = sorted(args.start_from.glob("*.safetensors")) if args.start_from else []
    used = [
        report.describe_input(p)
        for p in (args.config, args.model / "tokenizer.json", tiny_rows.RESULTS, tiny_rows.SEQUENCES, *start)
    ]
    args.work.mkdir(parents=True, exist_ok=True)
    model, history = train(settings, encoder, args.work, args.start_from)
    save_checkpoint(model, settings, args.model)
    if args.report:
        results = {"parameters": sum(p.numel() for p in model.parameters()), "history": history}
        made = report.describe_input(args.model / "model.safetensors")  # ties the stages to the model that is shipped
        report.write(args.report, used, settings, {**results, "made": made})
    if args.log:
        jsonl.write(args.log, history)
    print(f"tiny model: {settings['steps']} steps, {history[-1]['tokens']:,} tokens, in {shown(args.model)}")


def save_checkpoint(model: TinyLfm2Moe, settings: dict, folder: Path) -> None:
    """Write model.safetensors (BF16, MLX layout) and config.json beside the tokenizer."""
    tensors = {
        name: checkpoint.from_array(name, t.numpy(), "F32" if name.endswith("expert_bias") else "BF16")
        for name, t in model.hf_tensors().items()
    }
    checkpoint.save_mlx(folder, checkpoint.Checkpoint(folder, settings["model"], tensors))


if __name__ == "__main__":
    cli.run(main)
