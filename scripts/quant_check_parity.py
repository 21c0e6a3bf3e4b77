"""Prove that a GGUF computes what its checkpoint computes: MLX and llama.cpp side by side.

In:  a checkpoint folder, the BF16 GGUF made from it, and a text of rendered prompts (the held-out text).
Out: a report with the positions compared, the greedy tokens that differ and the largest differences.

  .venv/bin/python scripts/quant_check_parity.py --model models/tiny --gguf runs/tiny/hermes-kxl-tiny-bf16.gguf \\
      --text runs/tiny/heldout.txt --report runs/tiny/results/reports/parity.json

The text is cut into prompts at each beginning-of-sequence token. mlx-lm, with its own loader and in
float32, gives next-token log-probabilities at the last --per-prompt positions of each prompt.
llama-server must cut the text into the same tokens, and gives the log-probabilities of its --top
likeliest tokens after the very same ids, one position at a time. It is asked twice:

  exact      a float32 copy of the GGUF, made by llama-quantize (BF16 to F32 loses nothing). Both sides
             then compute in float32: every greedy token must be equal and no log-probability may be
             off by more than --max-difference.
  as_served  the BF16 GGUF itself. llama.cpp rounds activations to bfloat16 before each matmul, which
             can decide between two close tokens or two close experts: the mean KL divergence must
             stay below --max-kld, and differing greedy tokens are listed.

Positions where MLX's two best tokens are closer than --tie-margin are left out and counted.
"""

import math
import os
from pathlib import Path

import numpy as np
from tqdm import tqdm

from kxl.base import cli, report
from kxl.base.cli import UserError, say
from kxl.base.files import read_text, require_space, scratch_dir, shown
from kxl.chat import tokenizer_checks
from kxl.eval import server as eval_server
from kxl.model import blas, checkpoint
from kxl.setup import llama_cpp

# Keys and values in float32. One token at a time a second thread mostly waits for the first, and on a busy machine for
# long.
SERVER = (
    "--cache-type-k",
    "f32",
    "--cache-type-v",
    "f32",
    "--flash-attn",
    "off",
    "--threads",
    "1",
    "--threads-batch",
    str(os.cpu_count()),
)


def split_prompts(ids: list[int]) -> list[list[int]]:
    """Cut at each occurrence of the first token, which is the beginning of a sequence."""
    starts = [i for i, token in enumerate(ids) if token == ids[0]]
    return [ids[a:b] for a, b in zip(starts, [*starts[1:], len(ids)])]


def mlx_reference(
    folder: Path, prompts: list[list[int]], positions: int, per_prompt: int, tie_margin: float, float32: bool
) -> tuple[list[tuple[list[int], np.ndarray]], int]:
    """(prefix, next-token log-probabilities [vocabulary]) at `positions` positions, and how many ties were left out.

    UserError when the prompts have fewer positions.
    """
    import mlx.core as mx
    from mlx_lm.utils import load_model

    float32 = float32 or mx.default_device() == mx.cpu  # MLX has expert matmuls on a CPU in float32 only
    parameters = sum(math.prod(tensor.shape) for tensor in checkpoint.read(folder).tensors.values())
    memory, needed = report.environment()["memory_gib"], parameters * (4 if float32 else 2) / 2**30
    if needed > 0.9 * memory:
        raise UserError(
            f"{shown(folder)}: MLX needs {needed:.1f} GiB for it and the machine has {memory}; "
            f"{'use --as-served-only on a Mac, or ' if float32 else ''}a machine with more memory"
        )
    model, _ = load_model(folder)
    if float32:
        model.set_dtype(mx.float32)
    reference, ties = [], 0
    with tqdm(total=positions, desc="MLX", unit="position", leave=False) as bar:
        for ids in prompts:
            last = min(per_prompt, len(ids) - 1)
            if last < 1:
                continue
            logits = model(mx.array([ids[:-1]]))[0, -last:].astype(mx.float32)
            log_probs = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
            for row, expected in enumerate(log_probs):
                second, best = np.partition(expected, -2)[-2:]
                if best - second < tie_margin:
                    ties += 1
                    continue
                reference.append((ids[: len(ids) - last + row], expected))
                bar.update()
                if len(reference) == positions:
                    return reference, ties
    raise UserError(
        f"the text has {len(reference)} positions to compare and {positions} are needed; give a longer --text, "
        f"a larger --per-prompt or a smaller --positions"
    )


def check_tokens(server, text: str, ids: list[int], folder: Path) -> None:
    """llama-server must cut the text into these ids. UserError shows the first difference."""
    theirs = _post(server, "/tokenize", {"content": text, "add_special": False, "parse_special": True})["tokens"]
    if ids != theirs:
        at = next((i for i, (a, b) in enumerate(zip(ids, theirs)) if a != b), min(len(ids), len(theirs)))
        near = _post(server, "/detokenize", {"tokens": theirs[max(0, at - 8) : at + 8]})["content"]
        raise UserError(
            f"the GGUF tokenizes differently from {shown(folder / 'tokenizer.json')} at token {at}, near {near!r}: "
            f"{ids[at : at + 4]} there, {theirs[at : at + 4]} in llama.cpp; check --pre-tokenizer of quant_convert.py"
        )


def server_log_probs(server, ids: list[int], top: int, letter: int) -> tuple[np.ndarray, np.ndarray]:
    """The `top` likeliest next tokens after `ids` by llama-server: their ids and log-probabilities, best first.

    The log-probabilities are of the model's own logits, before any bias. The bias makes the server
    generate `letter`, an ASCII token: it leaves out the list when it generates part of a character.
    """
    body = {
        "prompt": ids,
        "n_predict": 1,
        "n_probs": top,
        "temperature": 0,
        "cache_prompt": True,
        "logit_bias": [[letter, 1000.0]],
    }
    found = _post(server, "/completion", body)["completion_probabilities"][0]["top_logprobs"]
    return np.array([entry["id"] for entry in found]), np.array([entry["logprob"] for entry in found])


def _post(server, route: str, body: dict) -> dict:
    reply = server.http.post(server.url + route, json=body, timeout=600)
    if reply.status_code != 200:
        raise server.failure(f"answered {reply.status_code} to {route}: {reply.text.strip()[:200]}")
    return reply.json()


def compare(server, reference: list, top: int, letter: int, name: str) -> dict:
    """Ask llama-server at each reference position; return counts, differences (nats) and the differing tokens."""
    largest, means, divergences, differing = 0.0, [], [], []
    for prefix, expected in tqdm(reference, desc=f"llama.cpp, {name}", unit="position", leave=False):
        tokens, found = server_log_probs(server, prefix, top, letter)
        heard = found > -80  # a probability below float32's range comes back as the lowest float
        tokens, found = tokens[heard], found[heard]
        wanted = expected[tokens].astype(np.float64)
        largest = max(largest, float(np.abs(found - wanted).max()))
        means.append(float(np.abs(found - wanted).mean()))
        divergences.append(float(np.sum(np.exp(wanted) * (wanted - found))))
        greedy = int(expected.argmax())
        if greedy != tokens[0]:
            differing.append(
                {
                    "tokens_before": len(prefix),
                    "mlx": greedy,
                    "llama_cpp": int(tokens[0]),
                    "margin": round(float(expected[greedy] - expected[tokens[0]]), 4),
                }
            )
    return {
        "greedy_equal": len(reference) - len(differing),
        "differing": differing,
        "max_difference": round(largest, 6),
        "mean_difference": round(float(np.mean(means)), 7),
        "mean_kld": round(max(0.0, float(np.mean(divergences))), 7),
    }


def refuse(results: dict, args, failed: Path) -> None:
    """Raise UserError when a gate fails; `failed` is where the report can be read."""
    exact, served = results.get("exact"), results["as_served"]
    if exact and exact["differing"]:
        first = exact["differing"][0]
        raise UserError(
            f"{shown(args.gguf)}: {len(exact['differing'])} of {results['positions']} greedy tokens differ from "
            f"MLX (the first "
            f"after {first['tokens_before']} tokens: {first['mlx']} there, {first['llama_cpp']} here); see "
            f"{shown(failed)}"
        )
    if exact and exact["max_difference"] > args.max_difference:
        raise UserError(
            f"{shown(args.gguf)}: a log-probability differs from MLX's by {exact['max_difference']}, above "
            f"{args.max_difference}; see {shown(failed)}"
        )
    if served["mean_kld"] > args.max_kld:
        raise UserError(
            f"{shown(args.gguf)}: mean KL divergence from MLX is {served['mean_kld']}, above {args.max_kld}; "
            f"see {shown(failed)}"
        )


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="checkpoint folder")
    parser.add_argument("--gguf", type=Path, required=True, metavar="FILE", help="BF16 GGUF made from it")
    parser.add_argument(
        "--text", type=Path, required=True, metavar="FILE", help="rendered prompts, special tokens as text"
    )
    parser.add_argument("--report", type=Path, required=True, metavar="FILE", help="report to write (JSON)")
    parser.add_argument("--log", type=Path, metavar="FILE", help="llama-server's log (default: beside the GGUF)")
    parser.add_argument("--positions", type=int, default=200, help="positions to compare")
    parser.add_argument("--per-prompt", type=int, default=20, help="positions at the end of each prompt")
    parser.add_argument("--top", type=int, default=1024, help="likeliest tokens compared per position")
    parser.add_argument(
        "--tie-margin",
        type=float,
        default=0.001,
        help="nats between MLX's two best tokens below which a position is left out",
    )
    parser.add_argument(
        "--max-difference",
        type=float,
        default=0.01,
        help="largest difference of log-probabilities in float32, in nats; of a trained model's 1024 likeliest "
        "tokens the last are at -20 and below",
    )
    parser.add_argument(
        "--max-kld", type=float, default=0.01, help="largest mean KL divergence of the BF16 GGUF as served, in nats"
    )
    parser.add_argument(
        "--as-served-only",
        action="store_true",
        help="leave out the exact comparison, where float32 copies do not fit; on a Mac MLX then computes in the "
        "checkpoint's own type",
    )
    args = parser.parse_args()
    blas.use_fast_blas()

    text = read_text(args.text)
    tokenizer = tokenizer_checks.load(args.model)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    if not ids:
        raise UserError(f"{shown(args.text)}: is empty")
    letter = tokenizer.encode("a", add_special_tokens=False).ids[0]
    prompts = split_prompts(ids)
    reference, ties = mlx_reference(
        args.model, prompts, args.positions, args.per_prompt, args.tie_margin, not args.as_served_only
    )
    results = {"positions": len(reference), "near_ties": ties}

    log, context = args.log or args.gguf.with_suffix(".parity.log"), max(map(len, prompts)) + 1
    with eval_server.llama_server(args.gguf, log, context, extra=SERVER) as server:
        check_tokens(server, text, ids, args.model)
        results["as_served"] = compare(server, reference, args.top, letter, "as served")
    if not args.as_served_only:
        with scratch_dir(args.gguf.parent) as folder:
            require_space(args.gguf.parent, 2 * args.gguf.stat().st_size)
            copy = Path(folder) / "f32.gguf"
            llama_cpp.run("llama-quantize", [args.gguf, copy, "F32"], log)
            with eval_server.llama_server(copy, log, context, extra=SERVER) as server:
                results["exact"] = compare(server, reference, args.top, letter, "exact")

    settings = {
        key: getattr(args, key) for key in ("positions", "per_prompt", "top", "tie_margin", "max_difference", "max_kld")
    }
    inputs = [args.model, args.gguf, args.text]
    try:
        refuse(results, args, report.failed_path(args.report))
    except UserError:
        report.write_gated(args.report, False, inputs, settings, results)
        raise
    report.write_gated(args.report, True, inputs, settings, results)
    served, exact = results["as_served"], results.get("exact")
    say(
        f"as served (activations rounded to bfloat16): {served['greedy_equal']} of {len(reference)} greedy "
        f"tokens equal, "
        f"largest difference {served['max_difference']}, mean KLD {served['mean_kld']}"
    )
    if exact:
        print(
            f"{shown(args.report)}: {exact['greedy_equal']} of {len(reference)} greedy tokens equal in float32, "
            f"largest difference {exact['max_difference']} ({ties} ties left out)"
        )
    else:
        print(
            f"{shown(args.report)}: {served['greedy_equal']} of {len(reference)} greedy tokens equal as served "
            f"({ties} ties left out)"
        )


if __name__ == "__main__":
    cli.run(main)
