"""Record real traces: the pinned Hermes Agent, run headless against a scripted server, its tools really executing.

In:  the scenarios of kxl/live/scenarios.py (requests, files, what the model does).
Out: JSON lines in Hermes's own trace format (ShareGPT), with the columns of the public trace sets:
     {"id", "conversations", "tools", "category", "subcategory", "task", "completed"}. Hermes writes the
     conversation itself; the scratch folder's path becomes /home/user/project, and the time is left out.

  .venv/bin/python scripts/traces_record.py --out datasets/hermes/traces.jsonl
"""

import json
import re
from pathlib import Path

from tqdm import tqdm

from kxl.base import cli, jsonl
from kxl.base.cli import UserError
from kxl.base.files import scratch_dir, shown
from kxl.live import agent, scripted_server
from kxl.live import scenarios as live_scenarios

HOME = "/home/user/project"


def record(scenario: dict, toolsets: str, seconds: float) -> dict:
    """One trace. UserError when Hermes did not go through the whole script."""
    with scratch_dir() as scratch:
        folder = scratch / "project"
        folder.mkdir()
        for path, text in scenario["files"].items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
        with scripted_server.serve(scenario["turns"], side_answer="Title") as server:
            run = agent.run(
                scenario["prompt"], server.url, folder, toolsets=toolsets, seconds=seconds, save_trajectory=True
            )
        if run.trajectory is None or server.left():
            ending = (run.errors or run.answer).strip()[-500:]
            raise UserError(
                f"{scenario['id']}: Hermes asked for {len(scenario['turns']) - server.left()} of"
                f" {len(scenario['turns'])} turns and {'kept no' if run.trajectory is None else 'kept a'} trace;"
                f" it printed at the end: {ending}"
            )
        check_results(scenario["id"], run.trajectory["conversations"], server.requests)
        tools = next(body["tools"] for body in server.requests if body.get("tools"))
        text = json.dumps(run.trajectory["conversations"], ensure_ascii=False).replace(str(folder), HOME)
        if str(folder.parent) in text:
            raise UserError(f"{scenario['id']}: the trace names this machine's folder {folder.parent}")
    functions = [{**tool["function"], "required": None} for tool in tools]  # as Hermes lists them in the trace's prompt
    return {
        "id": scenario["id"],
        "conversations": json.loads(text),
        "tools": json.dumps(functions, ensure_ascii=False),
        "category": "Recorded",
        "subcategory": scenario["category"],
        "task": scenario["prompt"],
        "completed": run.trajectory["completed"],
    }


def check_results(name: str, turns: list[dict], requests: list[dict]) -> None:
    """Refuse a trace whose tool results are not those that the server saw: the tools could have written its file."""
    seen = {
        message["tool_call_id"]: message["content"]
        for request in requests
        for message in request["messages"]
        if message["role"] == "tool"
    }
    text = "".join(turn["value"] for turn in turns if turn["from"] == "tool")
    blocks = [json.loads(block) for block in re.findall(r"<tool_response>\n(.*?)\n</tool_response>", text, re.DOTALL)]
    kept = {block["tool_call_id"]: block["content"] for block in blocks}
    if list(kept) != list(seen) or any(kept[key] not in (text, _value(text)) for key, text in seen.items()):
        raise UserError(
            f"{name}: the trace that Hermes kept has other tool results than the server saw; record it again"
        )


def _value(text: str):
    try:
        return json.loads(text)
    except ValueError:
        return None


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON lines to write")
    parser.add_argument("--generated", type=int, default=12, help="generated scenarios beside the hand-written ones")
    parser.add_argument("--seed", type=int, default=5, help="of the generated ones")
    parser.add_argument("--toolsets", default="terminal,file", help="Hermes's toolsets")
    parser.add_argument("--only", help="record just this scenario")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one run")
    args = parser.parse_args()
    scenarios = [
        one
        for one in live_scenarios.written() + live_scenarios.generated(args.seed, args.generated)
        if args.only in (None, one["id"])
    ]
    if not scenarios:
        raise UserError(f"there is no scenario {args.only}")
    rows = [record(one, args.toolsets, args.timeout) for one in tqdm(scenarios, desc="recording", unit=" traces")]
    jsonl.write(args.out, rows)
    print(f"{len(rows)} traces of Hermes Agent in {shown(args.out)}")


if __name__ == "__main__":
    cli.run(main)
