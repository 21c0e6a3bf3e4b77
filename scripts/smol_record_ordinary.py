"""Record what the base model answers where no tool is called: to ordinary questions, and to what no tool can do.

In:  the base checkpoint, our questions (kxl/smol/requests.py), requests that no tool serves (kxl/smol/domains.py), and
     BFCL's questions that its tools do not answer, those of the training's side (kxl/smol/sets.py).
Out: JSON lines {"id", "kind", "prompt", "answer"}; answers are the base model's own, greedy. Training on them holds the
     model where it was; nobody claims that they are right. Kinds:

  ordinary, irrelevance          a question, answered as without tools
  near, absent, live_irrelevance what cannot be done; the model is told so and declines in its words
  missing                        one argument is not said; the model is told which and asks for it in its words

  .venv/bin/python scripts/smol_record_ordinary.py --config configs/smollm2-135m.json --model runs/smollm2-135m/base \\
      --out datasets/smollm2-135m/recorded.jsonl

How many of each, and how long an answer may be, stands in the config (data.recorded). Longer ones, and questions that
ask nothing, are left out and counted. Made once and committed: some minutes on two idle cores.
"""

from collections import Counter
from pathlib import Path

from tqdm import tqdm

from kxl.base import cli, jsonl
from kxl.base.cli import UserError
from kxl.base.files import ROOT, read_json, shown
from kxl.chat import loss_mask, thoughts
from kxl.setup import archive
from kxl.smol import backend, domains, requests, sets
from kxl.smol import tokens as smol_tokens

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
DECLINE = (
    "The user asks for something that you cannot do, because you have no tool for it. Do not do it and do not pretend"
    " to. Say in one short, polite sentence what it is that you cannot do."
)
ASK = "The user wants something done, but did not say one thing that you need: {}. Ask for it in one short question."
MOST = 600  # questions of one kind for our domains
DECLINED = ("near", "absent", "live_irrelevance")


def prompts(recorded: dict, seed: int, found: list[dict]) -> list[dict]:
    """What is asked: {"id", "kind", "prompt"} and, for kind missing, "lacks".

    recorded: how many of each kind, for near, absent and missing how many fillings of each wording, of which at most
    MOST are asked, evenly over the domains. UserError where there are fewer ordinary questions.
    """
    own = requests.ordinary_prompts()
    if recorded["ordinary"] > len(own):
        raise UserError(f"data.recorded.ordinary is {recorded['ordinary']}, but there are {len(own)} questions")
    asked = [
        {"id": f"ordinary/{place}", "kind": "ordinary", "prompt": prompt}
        for place, prompt in enumerate(own[: recorded["ordinary"]])
    ]
    for kind in ("near", "missing", "absent"):
        known = domains.unserved((kind,), recorded[kind], seed)
        count = min(len(known), MOST)
        asked += [known[place * len(known) // count] for place in range(count)]
    for kind in sets.UNANSWERABLE:
        entries = [entry for entry in sets.parted(found)["train"] if entry["category"] == kind]
        asked += [
            {"id": entry["id"], "kind": kind, "prompt": entry["messages"][-1]["content"]}
            for entry in entries
            if [message["role"] for message in entry["messages"]] == ["user"]
        ][: recorded[kind]]
    return asked


def instruction(entry: dict) -> str:
    """The system message under which the base model answers an entry."""
    if entry["kind"] in DECLINED:
        return DECLINE
    return ASK.format(entry["lacks"].lower()) if entry["kind"] == "missing" else SYSTEM


def prompt_of(chat, entry: dict, config: dict) -> list[int]:
    """The token ids that the base model goes on from."""
    system = {"role": "system", "content": " ".join(filter(None, [instruction(entry), config.get("system")]))}
    return smol_tokens.prompt_ids(chat, [system, {"role": "user", "content": entry["prompt"]}])


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--config", type=Path, required=True, help="model config (see configs/)")
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="base checkpoint")
    parser.add_argument("--backend", choices=backend.NAMES, default=backend.usual(), help="what computes (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON lines to write")
    args = parser.parse_args()
    backend.prepare(args.backend)

    config = read_json(args.config)
    data = config["data"]
    found = sets.entries(archive.fetch(ROOT / "third_party" / "bfcl-eval.lock"))
    asked = prompts(data["recorded"], data["seed"], found)
    chat = loss_mask.load(args.model)
    model, stop = backend.load(args.backend, args.model), chat.tokenizer.token_to_id(chat.end)
    rows, left_out = [], Counter()
    with tqdm(total=len(asked), desc="asking the base model", unit="question") as bar:
        for answering, longest in (
            (True, data["recorded"]["max_tokens"]),
            (False, data["recorded"]["declining_tokens"]),
        ):
            entries = [entry for entry in asked if (instruction(entry) == SYSTEM) == answering]
            ids = [prompt_of(chat, entry, config) for entry in entries]
            for entry, generation in zip(entries, model.generate(ids, longest, stop, done=bar.update)):
                said = chat.tokenizer.decode(generation.ids, skip_special_tokens=False)
                answer = thoughts.split_thought(said)[1].strip()  # a thought is not what is taught
                if not generation.ended or not answer:
                    left_out[f"longer than {longest} tokens, or empty"] += 1
                elif entry["kind"] == "missing" and "?" not in answer:
                    left_out["asks nothing"] += 1
                else:
                    kept = {key: entry[key] for key in ("id", "kind", "domain", "tool", "prompt") if key in entry}
                    rows.append({**kept, "answer": answer})
    jsonl.write(args.out, rows)
    counted = Counter(row["kind"] for row in rows)
    print(f"{shown(args.out)}: {len(rows)} answers {dict(counted)}; left out: {dict(left_out) or 'nothing'}")


if __name__ == "__main__":
    cli.run(main)
