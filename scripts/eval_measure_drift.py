"""Ask the same model through other versions of llama.cpp, and name what changed: before an upgrade, not after it.

In:   a GGUF file and its checkpoint (tokenizer, chat template); versions of the package whose source distributions hold
      llama.cpp (third_party/llama.cpp.lock names package and pinned version)
Out:  a report: per version the cases of a suite that pass no more, or pass now; the answers that read otherwise; the
      template's round trips that break no more, or break now. Exit code 2 where a case or a round trip is lost

  .venv/bin/python scripts/eval_measure_drift.py --gguf runs/tiny/hermes-kxl-tiny-q4kxl.gguf --model models/tiny \\
      --pin 0.3.35 --out runs/tiny/results/reports/drift.json

Each version is built beside the pinned one into the cache, patches left out where they do not apply (6 to 12 minutes on
2 cores, once), and answers in the same way: llama-server, greedy, tools and template as they are. A version that does
not build or whose server refuses our flags is told as such.
"""

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

from kxl.base import cli, report
from kxl.base.cli import UserError
from kxl.base.files import ROOT, read_json, sha256, shown, write_json
from kxl.setup import archive, llama_cpp

SUITE = ROOT / "evals/suites/fixed_hermes_43.json"


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--gguf", type=Path, required=True, help="the file that is asked")
    parser.add_argument("--model", type=Path, required=True, help="its checkpoint: tokenizer.json, chat_template.jinja")
    parser.add_argument("--suite", type=Path, default=SUITE, help="suite of cases")
    parser.add_argument("--pin", action="append", required=True, help="a version; may be given several times")
    parser.add_argument("--work", type=Path, help="folder for what each version answered (default: beside --out)")
    parser.add_argument("--out", type=Path, required=True, help="report file to write")
    args = parser.parse_args()
    for path in (args.gguf, args.model / "chat_template.jinja", args.suite):
        if not path.exists():
            raise UserError(f"{shown(path)}: no such file")
    work = args.work or args.out.with_suffix("")
    pinned = llama_cpp.read_lock()
    base = answers(args, work, llama_cpp.LOCK)
    if base["did_not_run"]:
        raise UserError(f"the pinned {pinned['version']} did not run: {base['did_not_run']}")
    results, locks = {}, {}
    for version in dict.fromkeys(args.pin):
        lock = lock_of(pinned["package"], version, work)
        locks[version] = {key: read_json(lock)[key] for key in ("sha256", "commit")}
        results[version] = changes(base, answers(args, work, lock))
        print(f"{pinned['package']} {version} against {pinned['version']}: {in_words(results[version])}")
    settings = {"pinned": pinned["version"], "versions": locks, "suite": args.suite.stem}
    report.write(
        args.out, [args.gguf, args.suite, args.model / "chat_template.jinja", llama_cpp.LOCK], settings, results
    )
    if bad := [version for version, one in results.items() if one["did_not_run"] or one["lost"] or one["breaks_now"]]:
        raise UserError(
            f"with {', '.join(bad)} this model would not call as it does now; what changed is in {shown(args.out)}"
        )
    print(f"wrote {shown(args.out)}")


def lock_of(package: str, version: str, work: Path) -> Path:
    """A lock of a version that nothing pins, written into `work`; its archive is fetched first when it is missing."""
    fetched = archive.source_distribution(package, version)
    lock = work / f"{version}.lock"
    stem = fetched.name.removesuffix(".tar.gz")
    write_json(
        lock,
        {
            "package": package,
            "version": version,
            "file": fetched.name,
            "sha256": sha256(fetched),
            "tree": f"{stem}/vendor/llama.cpp",
            "commit": commit_of(fetched, stem),
            "optional_patches": True,
        },
    )
    return lock


def commit_of(fetched: Path, stem: str) -> str:
    """The commit of llama.cpp in an archive, as the package's own checkout notes it; "unknown" where it does not."""
    wanted = f"{stem}/.git/modules/vendor/llama.cpp/HEAD"
    with tarfile.open(fetched) as tar:
        for member in tar:  # a lookup by name would read all of a large archive in any case
            if member.name == wanted and member.isfile() and member.size < 100:
                text = tar.extractfile(member).read().decode("ascii", "replace").strip()
                return text if re.fullmatch(r"[0-9a-f]{40}", text) else "unknown"
    return "unknown"


def answers(args, work: Path, lock: Path) -> dict:
    """{"eval", "template": reports, "did_not_run": why, in one line, or None} of the version that `lock` names."""
    version = read_json(lock)["version"]
    environment = {**os.environ}
    environment.pop(llama_cpp.OTHER_LOCK, None)
    if lock != llama_cpp.LOCK:
        environment[llama_cpp.OTHER_LOCK] = str(lock.resolve())
    found = {"eval": work / f"{version}.eval.json", "template": work / f"{version}.template.json"}
    commands = {
        "build": ["setup_llama_cpp.py", "--quiet"],
        "eval": [
            *("eval_run.py", "--suite", args.suite, "--gguf", args.gguf, "--artifact", version),
            *("--out", found["eval"]),
        ],
        "template": ["traces_check_template.py", "--alone", "--model", args.model, "--report", found["template"]],
    }
    made: dict = {"did_not_run": None}
    for name, (script, *words) in commands.items():
        cli.say(f"{version}: {name}")
        command = [sys.executable, str(ROOT / "scripts" / script), *map(str, words)]
        if name == "build":  # minutes long: its progress belongs on the terminal
            if subprocess.run(command, env=environment, stdout=subprocess.DEVNULL).returncode:
                made["did_not_run"] = "build: it could not be built, its message is above"
                return made
            continue
        ended = subprocess.run(command, env=environment, capture_output=True, text=True)
        # A template that breaks rows ends with exit code 2 and a report; that is what is to be compared.
        if ended.returncode and not (name == "template" and ended.returncode == 2 and found[name].exists()):
            made["did_not_run"] = f"{name}: {last_error(ended.stderr)}"
            return made
        made[name] = read_json(found[name])
    return made


def last_error(text: str) -> str:
    """The line of an error that a person reads first."""
    lines = [line for line in text.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if line.startswith("error: ")), lines[-1] if lines else "no message")


def changes(base: dict, other: dict) -> dict:
    """What another version does otherwise than the pinned one, by name."""
    if other["did_not_run"]:
        return {"did_not_run": other["did_not_run"], "lost": [], "won": [], "breaks_now": [], "mended": []}
    before, after = ({case["id"]: case for case in one["eval"]["results"]["details"]} for one in (base, other))
    turns = [broken(one["template"]["results"]["broken"]) for one in (base, other)]
    return {
        "did_not_run": None,
        "cases": len(before),
        "passed": [sum(case["passed"] for case in one.values()) for one in (before, after)],
        "lost": [name for name in before if before[name]["passed"] and not after[name]["passed"]],
        "won": [name for name in before if not before[name]["passed"] and after[name]["passed"]],
        "why": {name: after[name]["why"] for name in before if before[name]["passed"] and not after[name]["passed"]},
        "other_calls": [name for name in before if before[name]["calls"] != after[name]["calls"]],
        "other_tokens": [
            name for name in before if (before[name]["raw"] or {}).get("text") != (after[name]["raw"] or {}).get("text")
        ],
        "turns": [one["template"]["results"]["turns"] for one in (base, other)],
        "breaks_now": sorted(turns[1] - turns[0]),
        "mended": sorted(turns[0] - turns[1]),
    }


def broken(found: list[dict]) -> set[str]:
    """Round trips that break, as `row, read by parser`; only llama-server's parser is another in another version."""
    return {f"{one['row']}, read by {one['parser']}" for one in found if one["parser"] == "llama_server"}


def in_words(one: dict) -> str:
    if one["did_not_run"]:
        return f"did not run: {one['did_not_run']}"
    said = [f"{one['passed'][1]} of {one['cases']} cases, {one['passed'][0]} now"]
    for key, words in (
        ("lost", "would fail"),
        ("won", "would pass"),
        ("other_tokens", "answers with other tokens"),
        ("breaks_now", "round trips that would break"),
        ("mended", "round trips that would be mended"),
    ):
        if one[key]:
            said.append(
                f"{words} ({len(one[key])}): {', '.join(one[key][:10])}" + (", …" if len(one[key]) > 10 else "")
            )
    if len(said) == 1:
        said.append(f"no answer and none of {one['turns'][0]} round trips changed")
    return "; ".join(said)


if __name__ == "__main__":
    cli.run(main)
