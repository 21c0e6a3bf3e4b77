"""Run generated tool calls for real, in the pinned Hermes Agent, and record what its tools return.

In:  nothing but a seed; files and calls are composed by tiny_arguments, or by tiny_sequences.
Out: a JSONL of episodes: {"calls": [{"name", "arguments", "result"}, …]}, each run in a scratch folder
     of its own; the folder's path is written as {CWD} in the results.

Only terminal, process and file tools run; they see nothing but the scratch folder. The committed
datasets/tiny/tool_results.jsonl and sequences.jsonl let every other stage work without Hermes.

    .venv/bin/python scripts/tiny_record_results.py --out datasets/tiny/tool_results.jsonl
    .venv/bin/python scripts/tiny_record_results.py --sequences --episodes 2400 --out datasets/tiny/sequences.jsonl
"""

import random
from pathlib import Path

from kxl.base import cli, jsonl
from kxl.setup import hermes_env
from kxl.tiny import sequences
from kxl.tiny.episodes import episode, run


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSONL of recorded episodes")
    parser.add_argument("--sequences", action="store_true", help="two or three calls in a row each, of tiny_sequences")
    parser.add_argument("--episodes", type=int, default=1200, help="how many to run")
    parser.add_argument("--longest", type=int, default=400, help="drop results longer than this many characters")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--python", type=Path, help="python of an environment with the pinned hermes-agent (default: made in the cache)"
    )
    args = parser.parse_args()
    rng = random.Random(args.seed)
    draw = sequences.episode if args.sequences else episode
    recorded = run([draw(rng) for _ in range(args.episodes)], args.python or hermes_env.python())
    # Hermes answers a second read of an unchanged file with a note instead of its content.
    kept = [
        e
        for e in recorded
        if all(len(c["result"]) <= args.longest and '"dedup": true' not in c["result"] for c in e["calls"])
    ]
    jsonl.write(args.out, kept, sort_keys=True)
    print(
        f"{len(kept)} episodes of real tool results in {args.out}; {args.episodes - len(kept)} dropped (longer than {args.longest} characters, a repeated read, or naming this machine)"
    )


if __name__ == "__main__":
    cli.run(main)
