"""The forms of the reports that other commands take numbers from, by what they are called there.

    load("quants", path)      # the whole report; UserError names file and key where it has another form

A form says what is read, not all that is written. Evaluations have theirs in kxl/eval/scores.py, a release's summary in
kxl/release/summary.py.
"""

from pathlib import Path

from kxl.base import report

COUNT = {"passed": int, "cases": int}
KLD = {"mean": float, "p999": float}
STEP = {"tokens?": int, "peak_rss_gib?": float}
CALL = {"name": str}
JUDGED = {
    "id": str,
    "verdict": str,
    # A key that is not there, and that a command reads, is an error that names it (kxl.base.files.Object).
    "kind?": str,
    "started?": bool,
    "tools?": list,
    "calls?": [CALL],
    "expected?": ([(str, CALL)], None),
    "right_arguments?": bool,
    "text?": str,
    "start_probability?": float,
}
QUIET = {"prompts": int, "false_calls": int, "by_kind?": {"+": {"prompts": int, "false_calls": int}}}
CALLING = {
    "prompts": int,
    "verdicts?": {"*": int},
    "median_start_probability?": (float, None),
    **{f"{key}?": int for key in ("emitting", "start_json_end", "right_tool", "right_arguments")},
}
COMPARED = {
    "cases": int,
    "margin": float,
    "equivalent": bool,
    "difference": float,
    "interval": [float],
    "only_first": [str],
    "only_second": [str],
}
SUITE = {**COUNT, "meets": bool, "leaks": int, "false_positives": int}
FORMS = {
    "quants": {
        "settings": {"scored_tokens": int, "context": int},
        "results": {
            "+": {
                "bytes": int,
                "sha256": str,
                "policy": str,
                "bpw": float,
                "parameters": int,
                "same_top_p": float,
                "kld": {**KLD, "mean_error": float},
            }
        },
    },
    "imatrix": {
        "inputs": [report.INPUT],
        "settings": {"min_tokens": int},
        "results": {"tokens": int, "fewest_tokens": ({"layer": int, "expert": int, "tokens": int}, None)},
    },
    "parity": {
        "inputs": [report.INPUT],
        "settings": {"max_kld": float, "max_difference?": float},
        "results": {
            "positions": int,
            "as_served": {"mean_kld": float, "greedy_equal?": int},
            "exact?": ({"greedy_equal": int, "max_difference": float, "mean_kld?": float}, None),
        },
    },
    "sizes": {
        "results": {
            "+": {
                "artifacts": {
                    "+": {
                        "bytes": int,
                        "gib": float,
                        "bpw": float,
                        "budget_gib": (float, None),
                        "policy?": ([str], None),
                    }
                }
            }
        }
    },
    "training": {"settings": {}, "results": {"history?": ([{"tokens?": int, "loss?": float}], None)}},
    "equivalence": {"settings": {"margin": float}, "results": {"*": {"all": (COMPARED, None)}}},
    "calibration": {"results": {"calibration": {"conversations": int}, "heldout": {"conversations": int}}},
    "search": {
        "settings": {"scored_tokens": int},
        "results": {"budgets": {"+": {"bytes": int, "kld": KLD, "rivals": {"*": {"bytes": int, "kld": KLD}}}}},
    },
    "dataset": {
        "settings": {"caps": [int, ...]},
        "results": {
            "dropped": {"*": int},
            "rows_in": int,
            "rows_out": {"train": int, "valid": int, "test": int},
            "sizes": {"tokens": int, "trained_tokens": int},
            "sources": {"+": {"rows": int, "kept": int}},
            "token_lengths": {"bin": int, "before": [int], "after": [int]},
        },
    },
    "emission": {
        "results": {
            "details?": {"before?": [JUDGED], "after?": [JUDGED]},  # of one model there is no before
            **{f"{key}?": CALLING for key in ("test", "masked_names")},
            **{f"{key}?": QUIET for key in ("restraint", "ordinary")},
        }
    },
    "measurement": {"results": {"details": [JUDGED]}},
    "lora": {"results": {"valid_losses": [float, ...]}},
    "repair": {
        "results": {
            "best": str,
            "seconds": int,
            "iterations": [
                {"name": str, "parent": (str, None), "accepted": bool, "refused": [str], "suites": {"+": SUITE}},
                ...,
            ],
        }
    },
    "memory": {"results": {"by_length": [{"tokens": int, "peak_gib": float, "parts_gib": {"*": float}}, ...]}},
    "sweep": {
        "settings": {"layers": int, "tokens": int},
        "results": {
            "steps": [
                {"group_layers": (int, None), "seconds": float, "peak_rss_gib": float, "predicted_gib": float},
                ...,
            ]
        },
    },
    "proof": {"results": {"streamed?": STEP, "grouped?": STEP, "mapped?": STEP}},
}


def load(kind: str, path: Path) -> dict:
    """A report by its kind; UserError names file and key where it has another form."""
    return report.load(path, FORMS[kind])
