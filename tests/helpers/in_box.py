"""Run one command in a box and say what became of it; also a program, so that a test can do it as another user.

PYTHONPATH=scripts python in_box.py '{"server": URL, "command": [...], "laid": {path: text}, "seconds": N}'
"""

import json
import os
import sys

from kxl.base.cli import UserError
from kxl.live import leftovers, sandbox
from kxl.live.relay import Upstream


def play(wanted: dict) -> dict:
    """{"exit_code", "out", "err", "stopped", "seconds", "found": {path: [kind, text]}, "unreadable", …} or {"no_box"}.

    `limits` in `wanted` are fields of sandbox.Limits.
    """
    limits = sandbox.Limits(**wanted.get("limits", {}))
    try:
        with sandbox.box(Upstream(wanted["server"], model=wanted.get("model")), [], limits=limits) as box:
            laid = {path: text.encode() for path, text in wanted.get("laid", {}).items()}
            ended = box.run(wanted["command"], laid, {"PATH": "/usr/bin:/bin"}, wanted["seconds"])
            try:
                found, unreadable = leftovers.read(box.folder, "work"), None
            except leftovers.Unreadable as error:
                found, unreadable = {}, str(error)
    except UserError as error:
        return {"no_box": str(error)}
    said = {key: getattr(ended, key) for key in ("exit_code", "out", "err", "stopped", "seconds")}
    said |= {"unreadable": unreadable, "called": box.seen.called(), "results": box.seen.results(), "uid": os.geteuid()}
    said["found"] = {
        path: [entry.kind, None if entry.text is None else entry.text.decode(errors="replace")]
        for path, entry in found.items()
    }
    return said


if __name__ == "__main__":
    print(json.dumps(play(json.loads(sys.argv[1]))))
