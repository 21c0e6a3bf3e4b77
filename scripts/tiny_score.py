"""Score a tiny checkpoint by greedy decoding in torch, for development: no server, no conversion, minutes on a CPU.

In:  checkpoint folders with their tokenizers; suites, of one of them only the development half.
Out: passes by category; with --out each case's answer and why it failed (JSON).

    .venv/bin/python scripts/tiny_score.py runs/tiny-next/model --out runs/tiny-next/score.json

The reports of the project come from llama-server and mlx-lm (eval_run.py); this only says which of two plans is better.
The verdicts are theirs (kxl/eval/verdicts.py). A suite that has halves in evals/halves is scored by its development
half, never by the other one.
"""

import json
import time
from collections import Counter
from pathlib import Path

import torch

from kxl.base import cli
from kxl.base.cli import UserError
from kxl.base.files import read_json, shown, write_json
from kxl.chat import thoughts, tool_syntax
from kxl.dialogue import trainer as training
from kxl.dialogue.contexts import Context
from kxl.dialogue.feed import Encoder
from kxl.dialogue.trainer import END, THINKING_ROOM
from kxl.eval import replies, suite_files, suites, verdicts
from kxl.model import checkpoint
from kxl.tiny.model import TinyLfm2Moe

SUITES = ["unseen_400", "fixed_hermes_43"]
TOGETHER = 128  # rows that are decoded at once


def load_suite(name: str) -> suites.Suite:
    """A suite of evals/suites, of one with halves the cases of the development half."""
    path = suite_files.path_of(name)
    suite = suites.load(path)
    if suite_files.halves_of(name).exists():
        suite_files.keep_half(suite, "development")
    if any("fill" in case for case in suite.cases):
        raise UserError(f"{shown(path)}: has cases that are filled up to a length; ask those with eval_run.py")
    return suite


def prompt(encoder: Encoder, messages: list[dict]) -> list[int]:
    """The ids of a case's messages, the system message left out, and of the head of the answer."""
    text = ""
    for message in messages:
        calls = [
            {"function": {"name": c["function"]["name"], "arguments": json.loads(c["function"]["arguments"])}}
            for c in message.get("tool_calls", ())
        ]
        text += encoder.text({**message, "tool_calls": calls}, False)
    return encoder.encode(text + "<|im_start|>assistant\n")


def parts(case: dict) -> tuple[str | None, list[dict]]:
    """(system message or None, the other messages) of a case."""
    first, *others = case["messages"]
    return (first["content"], others) if first["role"] == "system" else (None, case["messages"])


def write_answers(model: TinyLfm2Moe, encoder: Encoder, suite: suites.Suite) -> list[str]:
    """What the model writes for each case, special tokens as text; cases with the same head are decoded together."""
    groups: dict[str, list[int]] = {}
    for i, case in enumerate(suite.cases):
        groups.setdefault(json.dumps([parts(case)[0], suite.of(case).tools]), []).append(i)
    answers = [""] * len(suite.cases)
    device, end = next(model.parameters()).device, encoder.tokenizer.token_to_id(END)
    for head, members in groups.items():
        context = Context("suite", *json.loads(head))
        with torch.no_grad():
            states = model(torch.tensor([encoder.prefix(context)], device=device))[1]
        prompts = {i: prompt(encoder, parts(suite.cases[i])[1]) for i in members}
        members.sort(key=lambda i: len(prompts[i]))
        for start in range(0, len(members), TOGETHER):
            some = members[start : start + TOGETHER]
            decoded = model.decode(states, [prompts[i] for i in some], suite.max_tokens + THINKING_ROOM, end)
            for i, ids in zip(some, decoded):
                answers[i] = encoder.tokenizer.decode(ids, skip_special_tokens=False)
    return answers


def read_answer(text: str, names: list[str]) -> verdicts.Answer:
    """An answer's own tokens as a server's reply would be read; one without END was cut off. names: tools on offer."""
    turn = thoughts.split(text.removesuffix(END))
    parsed = tool_syntax.parse(turn.visible, names)
    calls = [
        {"type": "function", "function": {"name": call["name"], "arguments": json.dumps(call["arguments"])}}
        for call in parsed.calls
    ]
    message = {"role": "assistant", "content": parsed.content, "tool_calls": calls}
    if turn.thought is not None:
        message["reasoning_content"] = turn.thought
    finish = "length" if not text.endswith(END) else "tool_calls" if calls else "stop"
    answer = replies.read_chat({"choices": [{"message": message, "finish_reason": finish}]}, names)
    answer.errors += parsed.errors
    return answer


def score(model: TinyLfm2Moe, encoder: Encoder, suite: suites.Suite) -> dict:
    """{"passed", "cases", "false_calls", "categories": {name: [passed, all]}, "answers"} of a suite."""
    answers, total, passed, false_calls = [], Counter(), Counter(), 0
    for case, text in zip(suite.cases, write_answers(model, encoder, suite)):
        answer = read_answer(text, suite.of(case).names())
        why = verdicts.judge(suite, case, answer)
        answers.append({"id": case["id"], "category": case["category"], "text": text, "why": why})
        total[case["category"]] += 1
        passed[case["category"]] += not why
        false_calls += case["kind"] == "no_tool" and bool(answer.calls)
    return {
        "passed": passed.total(),
        "cases": total.total(),
        "false_calls": false_calls,
        "categories": {name: [passed[name], count] for name, count in total.items()},
        "answers": answers,
    }


def load_model(folder: Path) -> TinyLfm2Moe:
    """The model of a checkpoint folder, on the CPU."""
    model = TinyLfm2Moe(read_json(folder / "config.json"))
    held = checkpoint.read(folder).tensors
    model.load_hf({name: torch.from_numpy(tensor.read()) for name, tensor in held.items()})
    return model.eval()


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("models", type=Path, nargs="+", help="checkpoint folders")
    parser.add_argument("--suite", action="append", help=f"name of a suite (default: {', '.join(SUITES)})")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: CUDA where there is one"
    )
    parser.add_argument("--out", type=Path, help="all answers and verdicts (JSON)")
    args = parser.parse_args()
    device, results = training.pick_device(args.device), {}
    for folder in args.models:
        model, encoder = load_model(folder).to(device), Encoder(folder / "tokenizer.json", "keep")
        for name in args.suite or SUITES:
            begun = time.monotonic()
            scores = results[f"{shown(folder)} {name}"] = score(model, encoder, load_suite(name))
            head = (
                f"{shown(folder)} {name}: {scores['passed']} of {scores['cases']}, {scores['false_calls']} false calls"
            )
            by_category = "  ".join(f"{key} {right}/{count}" for key, (right, count) in scores["categories"].items())
            print(f"{head}, {time.monotonic() - begun:.0f} s  {by_category}", flush=True)
            if args.out:
                write_json(args.out, results)


if __name__ == "__main__":
    cli.run(main)
