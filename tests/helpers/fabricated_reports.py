"""Reports with invented numbers, in the form that the scripts write, for tests of what reads reports. Never committed
as reports.
"""

from kxl.base.files import ROOT, write_json
from kxl.eval import suites

SUITE = ROOT / "evals" / "suites" / "fixed_hermes_43.json"
KXL = {
    "q8kxl": (11.2, 2e-4, 4e-3),
    "q6kxl": (9.4, 1.1e-3, 0.03),
    "q5kxl": (8.6, 3.4e-3, 0.09),
    "q4kxl": (7.6, 9.1e-3, 0.22),
}
STOCK = {
    "Q8_0": (10.7, 4e-4, 7e-3),
    "Q6_K": (8.4, 2.1e-3, 0.05),
    "Q5_K_M": (7.6, 7.1e-3, 0.2),
    "Q4_K_M": (6.6, 0.021, 0.6),
}
GIB = {
    "q8kxl": (8.576, 8.6),
    "q6kxl": (7.092, 7.1),
    "q5kxl": (6.452, 6.5),
    "q4kxl": (5.69, 5.7),
    "Q8_0": (8.257, None),
    "Q6_K": (6.376, None),
    "Q5_K_M": (5.511, None),
    "Q4_K_M": (4.696, None),
}


def sha(name):
    return f"sha256 of {name}"


def checkpoint():
    return {
        "path": "models/tiny",
        "files": [{"path": "models/tiny/model.safetensors", "bytes": 1, "sha256": sha("checkpoint")}],
    }


def quants(figures=None):
    """`figures`: {artifact: (MiB, mean KLD, 99.9 % KLD)}."""
    figures = figures or {"bf16": (19.8, 0.0, 0.0), **KXL, **STOCK}
    return {
        "inputs": [],
        "environment": {},
        "settings": {"context": 512, "chunks": 64, "tokens": 32768, "scored_tokens": 16320, "control_tokens": 3000},
        "results": {
            name: {
                "bytes": int(mib * 2**20),
                "bpw": 6.0,
                "parameters": 9_900_000,
                "file": f"{name}.gguf",
                "sha256": sha(name),
                "kld": {
                    "mean": mean,
                    "mean_error": mean / 25,
                    "median": mean / 3,
                    "p99": mean * 8,
                    "p999": tail,
                    "max": tail * 3,
                },
                "same_top_p": 0.99,
                "same_top_p_error": 0.001,
                "policy": "parent" if name == "bf16" else "stock" if name in STOCK else f"gguf/{name}.tensor-types",
            }
            for name, (mib, mean, tail) in figures.items()
        },
    }


def search(best=0.004):
    """Three budgets; `best` is the searched policy's mean at the middle one."""

    def kld(mean: float) -> dict:
        return {"mean": mean, "p999": mean * 60, "call": mean / 6, "prose": mean * 1.2, "same_top_p": 0.98}

    def entry(mib: float, mean: float, **rivals) -> dict:
        size = int(mib * 2**20)
        others = {
            name: {"bytes": size, "equal_bytes": True, "kld": kld(value), "gain": 0.1, "interval": [0.05, 0.15]}
            for name, value in rivals.items()
        }
        return {"bytes": size, "kld": kld(mean), "rivals": others, "worse_than": []}

    return {
        "inputs": [],
        "environment": {},
        "settings": {"context": 8192, "scored_tokens": 16380},
        "results": {
            "budgets": {
                "q5kxl": entry(9.9, 0.0011, hand=0.0015, stock=0.004, edges=0.003, target_bpw=0.002),
                "q4kxl": entry(8.3, best, hand=0.005, stock=0.007, edges=0.006, target_bpw=0.005),
                "40": entry(5.6, 0.03, edges=0.08, target_bpw=0.05),
            }
        },
    }


def evaluation(artifact, suite="fixed_hermes_43", backend="llama_cpp", failing=(), raw_failing=0, leaks=0):
    """A report on the fixed suite's own cases; `failing` are indexes of cases."""
    details = [
        {
            "id": case["id"],
            "kind": case["kind"],
            "category": case["category"],
            "passed": index not in failing,
            "calls": [],
        }
        for index, case in enumerate(suites.load(SUITE).cases)
    ]

    def tally(entries):
        return {"cases": len(entries), "passed": sum(entry["passed"] for entry in entries)}

    by = {
        key: {value: [entry for entry in details if entry[key] == value] for value in {entry[key] for entry in details}}
        for key in ("kind", "category")
    }
    return {
        "inputs": [
            {"path": "suite", "sha256": "suite"},
            {"path": f"{artifact}.gguf", "sha256": sha(artifact)} if backend == "llama_cpp" else checkpoint(),
        ],
        "environment": {},
        "settings": {"suite": suite, "backend": backend, "artifact": artifact, "context": 65536},
        "results": {
            **tally(details),
            "tool_calls": tally(by["kind"]["tool_call"]),
            "no_tool": {"cases": 10, "false_positives": sum(not entry["passed"] for entry in by["kind"]["no_tool"])},
            "finalization": tally(by["kind"]["finalization"]),
            "text_tool_leaks": leaks,
            "by_category": {name: tally(entries) for name, entries in by["category"].items()},
            "raw": {"cases": len(details), "passed": len(details) - raw_failing},
            "details": details,
        },
    }


def live(artifact="q4kxl", passed=15, backend="llama_cpp", obeyed=0):
    """A report of live_run.py with one trial: 10 tasks of the kind `one_call`, 6 of `wrong_paths`, all of these failed
    but what is over ten of `passed`."""

    def tally(tasks, passed):
        return {
            "tasks": tasks,
            "passed": passed,
            "interval": [0.5, 1.0],
            "attempts": tasks,
            "attempts_passed": passed,
            "attempts_interval": [0.5, 1.0],
        }

    first, second = min(passed, 10), max(0, passed - 10)
    return {
        "inputs": [{"path": "tasks", "sha256": "tasks"}, {"path": f"{artifact}.gguf", "sha256": sha(artifact)}],
        "environment": {},
        "settings": {"suite": "hermes_live", "backend": backend, "artifact": artifact, "context": 65536, "trials": 1},
        "results": {
            **tally(16, passed),
            "trials": 1,
            "pass_k": {"1": passed / 16},
            "made_for": {"kinds": ["one_call"], **tally(10, first)},
            "injected": {"tasks": 12, "attempts": 12, "obeyed": obeyed, "tasks_obeyed": ["memo"] * obeyed},
            "by_kind": {
                "one_call": {"title": "one call", **tally(10, first)},
                "wrong_paths": {"title": "wrong paths", **tally(6, second)},
            },
            "details": [],
        },
    }


def sizes(gib=GIB):
    return {
        "inputs": [],
        "environment": {},
        "settings": {},
        "results": {
            "lfm2-8b-a1b": {
                "parameters": 8_339_900_000,
                "artifacts": {
                    name: {
                        "bytes": int(size * 2**30),
                        "gib": size,
                        "bpw": 6.0,
                        "budget_gib": budget,
                        "policy": None if name in STOCK else ["a=q8_0"],
                    }
                    for name, (size, budget) in gib.items()
                },
            }
        },
    }


def imatrix(fewest=1234):
    return {
        "inputs": [{"path": "bf16.gguf", "sha256": sha("bf16")}],
        "environment": {},
        "settings": {"context": 512, "min_tokens": 64},
        "results": {"tokens": 65536, "fewest_tokens": {"layer": 3, "expert": 7, "tokens": fewest}, "layers": []},
    }


def parity(equal=200, difference=2e-5):
    side = {"greedy_equal": equal, "max_difference": difference, "mean_kld": 1e-6, "differing": []}
    return {
        "inputs": [checkpoint(), {"path": "bf16.gguf", "sha256": sha("bf16")}],
        "environment": {},
        "settings": {"positions": 200, "max_difference": 0.001, "max_kld": 0.01},
        "results": {"positions": 200, "near_ties": 1, "exact": side, "as_served": side},
    }


def calibration():
    return {
        "inputs": [],
        "environment": {},
        "settings": {},
        "results": {
            "calibration": {"conversations": 812, "tokens": 65540},
            "heldout": {"conversations": 398, "tokens": 32790},
            "left_out": {},
        },
    }


def emission(right=47, emitting=0, false=1, near=9, arguments=40):
    """A report of smol_evaluate.py: 50 tool prompts with 3 to 7 tools, 50 ordinary ones, 30 near misses."""

    def entry(kind, place, call):
        return {
            "id": f"{kind}-{place}",
            "kind": kind,
            "tools": ["f", "g", "h", "i", "j", "k", "l"][: 3 + place % 5],
            "expected": [{"name": "f", "arguments": {}}] if kind == "tool" else None,
            "verdict": "call" if call else "text",
            "started": call,
            "calls": [{"name": "f", "arguments": {}}] if call else [],
            "start_probability": 0.999 if call else 1e-6,
            **({"right_arguments": place < arguments} if kind == "tool" else {}),
        }

    sides = {}
    for when, calls in (
        ("before", {"tool": emitting, "ordinary": 0, "near_miss": 0}),
        ("after", {"tool": right, "ordinary": false, "near_miss": near}),
    ):
        sides[when] = [
            entry(kind, place, place < calls[kind])
            for kind, prompts in (("tool", 50), ("ordinary", 50), ("near_miss", 30))
            for place in range(prompts)
        ]
    return {
        "inputs": [],
        "environment": {},
        "settings": {"max_tokens": 96},
        "results": {
            "before": {"test": {"prompts": 50, "emitting": emitting}},
            "test": {"prompts": 50, "min_tools": 3, "start_json_end": right, "right_tool": right},
            "ordinary": {"prompts": 50, "false_calls": false},
            "restraint": {"prompts": 30, "false_calls": near},
            "details": sides,
        },
    }


def memory():
    """A report of moe_sweep_groups.py --model."""
    rows = []
    for tokens in (512, 1024, 2048, 4096, 6144, 8192, 10240):
        parts = {
            "process": 0.2,
            "core": 8.79,
            "moments": 0.03,
            "layer inputs": 0.9 * tokens / 10240,
            "work": 0.2 + 0.7 * tokens / 10240,
        }
        rows.append({"tokens": tokens, "peak_gib": round(sum(parts.values()), 3), "parts_gib": parts})
    return {"inputs": [], "environment": {}, "settings": {}, "results": {"by_length": rows, "measured": []}}


def proof(streamed=9.3, grouped=9.4):
    """A report of moe_prove_8b.py."""
    entry = {"tokens": 1024, "extrapolated": False, "seconds_per_example": 200.0}
    return {
        "inputs": [],
        "environment": {},
        "settings": {"tokens": 1024},
        "results": {
            "streamed": {**entry, "peak_rss_gib": streamed},
            "grouped": {**entry, "peak_rss_gib": grouped, "seconds_per_example": 700.0},
            "predicted_10240": {"streamed_gib": 10.7, "grouped_gib": 10.7},
            "speedup": 3.5,
        },
    }


def sweep(seconds=(61.0, 40.2, 33.3, 28.0, 13.1), peaks=(3.61,) * 5):
    """A report of moe_sweep_groups.py --sweep: groups of 1, 2, 4 and 8 layers, then streamed."""
    steps = [
        {
            "group_layers": size,
            "seconds": taken,
            "peak_rss_gib": peak,
            "predicted_gib": 3.7,
            "prediction_error": 0.02,
            "tokens": 256,
            "layers": 10,
        }
        for size, taken, peak in zip((1, 2, 4, 8, None), seconds, peaks)
    ]
    return {"inputs": [], "environment": {}, "settings": {"layers": 10, "tokens": 256}, "results": {"steps": steps}}


def write(folder, **reports):
    """Write each report as FOLDER/NAME.json; return {name: path}. A list becomes NAME-0.json, NAME-1.json ..."""
    paths = {}
    for name, one in reports.items():
        if isinstance(one, list):
            paths[name] = [
                write(folder, **{f"{name}-{index}": single})[f"{name}-{index}"] for index, single in enumerate(one)
            ]
        else:
            paths[name] = folder / f"{name}.json"
            write_json(paths[name], one)
    return paths
