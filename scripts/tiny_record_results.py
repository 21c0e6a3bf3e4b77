"""Run generated tool calls for real, in the pinned Hermes Agent, and record what its tools return.

In:  nothing but a seed; files and calls are drawn by kxl/tiny/episodes.py.
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
from kxl.tiny import episodes, recorded


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSONL of recorded episodes")
    parser.add_argument("--sequences", action="store_true", help="two or three calls in a row each")
    parser.add_argument("--episodes", type=int, default=1200, help="how many to run")
    parser.add_argument("--longest", type=int, default=400, help="drop results longer than this many characters")
    parser.add_argument("--seed", type=int, default=1, help="draws other calls (default: 1)")
    parser.add_argument(
        "--python", type=Path, help="python of an environment with the pinned hermes-agent (default: made in the cache)"
    )
    args = parser.parse_args()
    rng = random.Random(args.seed)
    draw = episodes.in_a_row if args.sequences else episodes.apart
    drawn = [draw(rng) for _ in range(args.episodes)]
    steps = recorded.record(drawn, args.python or hermes_env.python())
    kept = [{"calls": calls} for calls in steps if all(worth_keeping(call["result"], args.longest) for call in calls)]
    jsonl.write(args.out, kept, sort_keys=True)
    print(
        f"{len(kept)} episodes of real tool results in {args.out}; {args.episodes - len(kept)} dropped (longer than "
        f"{args.longest} characters, a repeated read, or naming this machine)"
    )


def worth_keeping(result: str, longest: int) -> bool:
    """Hermes answers a second read of an unchanged file with a note instead of its content."""
    return len(result) <= longest and '"dedup": true' not in result


if __name__ == "__main__":
    cli.run(main)
