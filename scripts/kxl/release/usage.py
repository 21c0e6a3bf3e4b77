"""What a model card says to who wants to run the model: which file, how to fetch and serve it, what a call looks like.

`text` renders configs/templates/model_card_use.md.jinja. Numbers are the summary's; the rule for memory is ROOM.
"""

import json
from pathlib import Path

from kxl.base import templates
from kxl.base.files import ROOT, read_json, size
from kxl.eval import suite_files
from kxl.release.folder import IMATRIX, SUMS

TEMPLATE = ROOT / "configs/templates/model_card_use.md.jinja"
# Beside its weights a server holds the context's cache and buffers: a quarter of the file and a GiB, as a rule.
ROOM, LEAST = 1.25, 1 << 30
MEMORIES = (2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)  # GiB that machines and graphics cards have
EXAMPLE_TOOL = {
    "type": "function",
    "function": {
        "name": "read_file",
        "description": "Read a text file.",
        "parameters": {"type": "object", "required": ["path"], "properties": {"path": {"type": "string"}}},
    },
}
ASKED = [{"role": "user", "content": "show me notes.txt"}]
CALLED = {"name": "read_file", "arguments": {"path": "notes.txt"}}


def text(config: dict, summary: dict, repo: str, model: Path | None) -> str:
    """The section of the card, as Markdown. `model`: the checkpoint, whose template writes the example; or None."""
    return templates.render(TEMPLATE, values(config, summary, repo, model))


def values(config: dict, summary: dict, repo: str, model: Path | None) -> dict:
    """What the template says, by name."""
    found = {name: one for name, one in summary["artifacts"].items() if name in config["quants"]}
    smallest = min(found, key=lambda name: found[name]["bytes"])
    request = {"messages": ASKED, "tools": [EXAMPLE_TOOL], **sampling(config)}
    return {
        "name": summary["name"],
        "repo": repo,
        "folder": repo.split("/")[-1],
        "files": [
            {"file": one["file"], "tag": name.upper(), "size": size(one["bytes"]), "memory": memory(one["bytes"])}
            for name, one in found.items()
        ],
        "example": {"file": found[smallest]["file"], "tag": smallest.upper()},
        "room": {"share": f"{ROOM - 1:.0%}", "least": size(LEAST, 0)},
        "parameters": max(one["parameters"] for one in found.values()),
        "context": config["eval"]["context"],
        "sampling": sampling(config),
        "thinking_tokens": config["eval"].get("thinking_tokens", 0),
        "request": json.dumps(request, ensure_ascii=False),
        "reply": json.dumps(CALLED["arguments"]),
        "prompt": prompt(model) if model else None,
        "imatrix": {"file": IMATRIX, "tokens": summary["imatrix"]["tokens"]},
        "sums": SUMS,
        "stock": [
            {
                "name": name,
                "size": size(one["bytes"]),
                "kld": f"{one['kld']['mean']:.5f}",
                "same_top": f"{100 * one['same_top_p']:.2f} %",
            }
            for name, one in summary["artifacts"].items()
            if one["policy"] == "stock"
        ],
        "suites": described(found),
    }


def memory(count: int) -> str:
    """The smallest usual memory in which a file of `count` bytes can be served."""
    needed = count * ROOM + LEAST
    return next((f"{gib} GiB" for gib in MEMORIES if gib * 2**30 >= needed), f"{needed / 2**30:.0f} GiB")


def sampling(config: dict) -> dict:
    """How answers were drawn when the model was judged, in llama-server's names; greedy where the config is silent."""
    names = {"repetition_penalty": "repeat_penalty"}
    given = {names.get(key, key): value for key, value in config["eval"].get("sampling", {}).items() if key != "seed"}
    return given or {"temperature": 0}


def prompt(model: Path) -> str:
    """The example as the checkpoint's own template writes it: tools, request and call."""
    from kxl.chat import loss_mask

    call = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": CALLED}]}
    return loss_mask.load(model).render([*ASKED, call], [EXAMPLE_TOOL]).rstrip("\n")


def described(artifacts: dict) -> list[dict]:
    """What each suite is that a file was asked, in its own words; a suite of somebody else's is only named."""
    names = dict.fromkeys(key.split(".")[0] for one in artifacts.values() for key in one["evals"])
    paths = {name: suite_files.path_of(name) for name in names}
    return [
        {"name": name, "is": read_json(path).get("description", "").strip() if path.is_file() else ""}
        for name, path in paths.items()
    ]
