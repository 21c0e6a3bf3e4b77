"""Look at the raw next tokens of a model: ids, pieces, probabilities, and whether they are a tool call.

In:  a checkpoint folder (with --adapter also an adapter on it), or a GGUF file, and a second one to compare with.
Out: a table per prompt on stdout; with --report also JSON.

  .venv/bin/python scripts/smol_inspect.py --config configs/smollm2-135m.json --model runs/smollm2-135m/base \\
      --compare runs/smollm2-135m/fused

No parser and no grammar stand in between: a checkpoint is run by MLX on token ids; a GGUF file gets the same ids
through llama-server's /completion and returns token ids. Verdicts: call (start token, valid JSON, end token),
broken_json, unclosed, code_dump (a program, or a call written as text), text.
"""

import math
from pathlib import Path

from kxl.base import cli, report
from kxl.base import config as configs
from kxl.base.cli import UserError
from kxl.base.files import scratch_dir, shown
from kxl.chat import loss_mask
from kxl.model import blas
from kxl.smol import emission
from kxl.smol import tokens as smol_tokens

TOOLS = {
    "write_file": ("Write text to a file.", {"path": "Path of the file", "content": "Text to write"}),
    "save_config": ("Save one setting.", {"key": "Name of the setting", "value": "New value"}),
}
PROMPTS = [
    ("write_file", "Create hello.py that prints hello world."),
    ("write_file", "Write a file notes.txt with the text: buy milk"),
    ("save_config", "Save the setting theme with the value dark."),
    ("save_config", "Set timeout to 30 in the config."),
]


def tool(name: str) -> dict:
    """One of TOOLS as an OpenAI tool."""
    description, arguments = TOOLS[name]
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": {key: {"type": "string", "description": text} for key, text in arguments.items()},
                "required": list(arguments),
            },
        },
    }


def requests(chosen: list[str] | None) -> list[tuple[str, list, list]]:
    """(name, messages, tools): the built-in prompts, or `chosen` texts with both tools on offer."""
    if chosen:
        return [(text, [{"role": "user", "content": text}], [tool(name) for name in TOOLS]) for text in chosen]
    return [(text, [{"role": "user", "content": text}], [tool(name)]) for name, text in PROMPTS]


def from_checkpoint(
    folder: Path, adapter: Path | None, prompts: list[list[int]], tokens, stop: int, max_tokens: int, top: int
) -> list:
    """Generations of a checkpoint folder, by MLX."""
    from kxl.lora import adapter as lora_adapter
    from kxl.model import generate

    model = generate.load(folder)
    if adapter:
        lora_adapter.load(model, adapter)
    return generate.generate(model, prompts, max_tokens, stop, tokens.call_start, top)


def from_gguf(
    path: Path, prompts: list[list[int]], tokens, stop: int, max_tokens: int, top: int, log: Path, context: int = 4096
) -> list:
    """Generations of a GGUF file, by llama-server; the start token's probability is asked over the whole vocabulary."""
    from kxl.eval import server as eval_server
    from kxl.model.generate import Generation

    generations = []
    with eval_server.llama_server(path, log, context) as server:

        def ask(ids: list, count: int, best: int) -> dict:
            reply = server.http.post(
                server.url + "/completion",
                json={
                    "prompt": ids,
                    "temperature": 0,
                    "n_predict": count,
                    "n_probs": best,
                    "return_tokens": True,
                    "cache_prompt": True,
                },
                timeout=600,
            )
            if reply.status_code != 200:
                raise server.failure(f"answered /completion with HTTP {reply.status_code}: {reply.text[:300]}")
            return reply.json()

        words = server.http.get(server.url + "/v1/models", timeout=60).json()["data"][0]["meta"]["n_vocab"]
        for ids in prompts:
            first = ask(ids, 1, words)["completion_probabilities"][0]["top_logprobs"]
            reply = ask(ids, max_tokens, max(top, 1))
            steps = [
                {
                    "id": step["id"],
                    "probability": _probability(step),
                    "top": [[other["id"], _probability(other)] for other in step["top_logprobs"][:top]],
                }
                for step in reply["completion_probabilities"]
            ]
            generations.append(
                Generation(
                    [i for i in reply["tokens"] if i != stop],
                    reply["stop_type"] == "eos",
                    steps,
                    next((_probability(step) for step in first if step["id"] == tokens.call_start), 0.0),
                )
            )
    return generations


def _probability(entry: dict) -> float:
    return math.exp(entry["logprob"])


def inspect(source: Path, adapter: Path | None, chat, tokens, asked: list, max_tokens: int, top: int) -> list[dict]:
    """One entry per request: ids, pieces, probabilities, start_probability, verdict."""
    prompts = [smol_tokens.prompt_ids(chat, messages, tools) for _, messages, tools in asked]
    stop = chat.tokenizer.token_to_id(chat.end)
    if source.is_dir():
        generations = from_checkpoint(source, adapter, prompts, tokens, stop, max_tokens, top)
    else:
        with scratch_dir() as scratch:
            generations = from_gguf(source, prompts, tokens, stop, max_tokens, top, Path(scratch) / "server.log")
    entries = []
    for (name, _, tools), generation in zip(asked, generations):
        verdict = emission.read(
            generation.ids,
            tokens,
            lambda ids: chat.tokenizer.decode(ids, skip_special_tokens=False),
            [tool["function"]["name"] for tool in tools],
        )
        entries.append(
            {
                "prompt": name,
                "verdict": verdict.kind,
                "problem": verdict.problem,
                "calls": verdict.calls,
                "ended": generation.ended,
                "start_probability": generation.watched,
                "steps": [{**step, "piece": piece(chat, step["id"])} for step in generation.steps],
            }
        )
    return entries


def piece(chat, token: int) -> str:
    """A token's own text, specials shown."""
    return chat.tokenizer.decode([token], skip_special_tokens=False)


def table(chat, columns: list[tuple[str, dict]], shown_steps: int) -> str:
    """One prompt as text: the models side by side, one token a line."""
    lines = [f"prompt: {columns[0][1]['prompt']}"]
    for name, entry in columns:
        lines.append(
            f"  {name}: {entry['verdict']}{' (' + entry['problem'] + ')' if entry['problem'] else ''},"
            f" start token at first place with probability {entry['start_probability']:.2e}"
        )
    for place in range(min(shown_steps, max(len(entry["steps"]) for _, entry in columns))):
        cells = []
        for _, entry in columns:
            if place < len(entry["steps"]):
                step = entry["steps"][place]
                others = " ".join(
                    f"{piece(chat, i)!r}:{probability:.2f}" for i, probability in step.get("top", [])[1:3]
                )
                cells.append(f"{step['id']:>6} {step['piece']!r:<18} {step['probability']:.3f} {others}")
            else:
                cells.append("")
        lines.append(f"  {place:>3}  " + "  |  ".join(f"{cell:<58}" for cell in cells).rstrip())
    return "\n".join(lines)


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--config", type=Path, required=True, help="model config (see configs/)")
    parser.add_argument("--model", type=Path, required=True, metavar="PATH", help="checkpoint folder or GGUF file")
    parser.add_argument("--adapter", type=Path, metavar="DIR", help="adapter for --model, when that is a folder")
    parser.add_argument(
        "--compare", type=Path, metavar="PATH", help="second checkpoint folder or GGUF file, shown beside the first"
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="DIR",
        help="checkpoint folder with tokenizer and template (default: --model or --compare)",
    )
    parser.add_argument(
        "--prompt",
        action="append",
        metavar="TEXT",
        help="ask this instead of the built-in prompts; may be given several times",
    )
    parser.add_argument("--max-tokens", type=int, default=64, help="longest answer, in tokens")
    parser.add_argument("--show", type=int, default=24, help="tokens shown per prompt")
    parser.add_argument("--top", type=int, default=3, help="most likely tokens kept per step")
    parser.add_argument("--report", type=Path, metavar="FILE", help="report to write")
    args = parser.parse_args()
    blas.use_fast_blas(keep_memory=True)

    sources = [path for path in (args.model, args.compare) if path]
    for path in filter(None, [*sources, args.adapter]):
        if not path.exists():
            raise UserError(f"{shown(path)}: no such file or folder")
    folder = args.tokenizer or next((path for path in sources if path.is_dir()), None)
    if folder is None:
        raise UserError("a GGUF file alone: name the checkpoint folder it was made of with --tokenizer")
    config, chat = configs.load(args.config, configs.SMOL), loss_mask.load(folder)
    tokens = smol_tokens.resolve(config, chat.tokenizer, shown(args.config))
    asked = requests(args.prompt)
    inspected = {}
    for path, adapter in ((args.model, args.adapter), (args.compare, None)):
        if path:
            label = shown(path) + (f" with {shown(adapter)}" if adapter else "")
            inspected[label] = inspect(path, adapter, chat, tokens, asked, args.max_tokens, args.top)
    for place in range(len(asked)):
        print(table(chat, [(name, entries[place]) for name, entries in inspected.items()], args.show) + "\n")
    if args.report:
        folders = [path for path in (args.model, args.adapter, args.compare) if path]
        weights = [path for folder in folders for path in sorted(folder.glob("*.safetensors"))]
        settings = {"max_tokens": args.max_tokens, "models": list(inspected)}
        report.write(args.report, [args.config, *weights], settings, {"models": inspected})
        print(f"wrote {shown(args.report)}")


if __name__ == "__main__":
    cli.run(main)
