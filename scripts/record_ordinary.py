"""Record what the base model answers to ordinary questions, to be trained beside the tool calls.

In:  the base checkpoint, our questions (smol_requests.py) and BFCL's questions that its tools do not answer.
Out: JSON lines {"id", "prompt", "answer"}; the answers are the base model's own, greedy, without tools in
     the prompt. Training on them holds the model where it was; nobody claims that they are right.

  .venv/bin/python scripts/record_ordinary.py --model runs/smollm2-135m/base --out datasets/smollm2-135m/ordinary.jsonl

Answers that did not end within --max-tokens are left out and counted. Made once and committed: about two
minutes on two cores.
"""

import json
from pathlib import Path

from tqdm import tqdm

import bfcl
import cli
import loss_mask
import mlx_backend
import smol_requests
import wheels
from files import ROOT, shown, write_text


def prompts(ordinary: int, unanswerable: int) -> list[tuple[str, str]]:
    """(id, question) of the first `ordinary` own questions and `unanswerable` of BFCL's."""
    own = [(f"own/{i}", prompt) for i, prompt in enumerate(smol_requests.ordinary_prompts()[:ordinary])]
    wheel = wheels.fetch(ROOT / "third_party" / "bfcl-eval.lock")
    return own + [(row["id"], row["messages"][-1]["content"]) for row in bfcl.unanswerable(wheel)[:unanswerable]]


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="base checkpoint")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON lines to write")
    parser.add_argument("--ordinary", type=int, default=70, help="how many of our own questions")
    parser.add_argument("--unanswerable", type=int, default=35, help="how many of BFCL's questions")
    parser.add_argument("--max-tokens", type=int, default=110, help="longest answer kept, in tokens")
    args = parser.parse_args()
    mlx_backend.use_fast_blas()
    import raw_generation

    asked = prompts(args.ordinary, args.unanswerable)
    chat = loss_mask.load(args.model)
    texts = [chat.render([{"role": "user", "content": prompt}], add_generation_prompt=True) for _, prompt in asked]
    ids = [chat.tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    with tqdm(total=len(ids), desc="asking the base model", unit="question") as bar:
        made = raw_generation.generate(raw_generation.load(args.model), ids, args.max_tokens, chat.tokenizer.token_to_id(chat.end), done=bar.update)
    rows = [{"id": name, "prompt": prompt, "answer": chat.tokenizer.decode(one.ids).strip()}
            for (name, prompt), one in zip(asked, made) if one.ended and one.ids]
    write_text(args.out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    print(f"{shown(args.out)}: {len(rows)} answers; {len(asked) - len(rows)} were longer than {args.max_tokens} tokens and left out")


if __name__ == "__main__":
    cli.run(main)
