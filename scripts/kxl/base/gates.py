"""The one rule of a gate, and the one of an evaluation: enough cases passed, no leak, no false call.

A gate has a name, what is required, what was measured, and whether that is enough. `evaluation` gives the gates of one
evaluation's results; whoever scores, repairs or releases asks it.
"""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Gate:
    """One condition: `required` and `measured` as they are printed and reported."""

    name: str
    required: object
    measured: object
    passed: bool
    missed: str = ""  # the sentence for a person, where the gate fails

    def as_json(self) -> dict:
        """As release_summary.json lists it."""
        entry = asdict(self)
        del entry["missed"]
        return {"gate": entry.pop("name"), **entry}


def evaluation(results: dict, limits: dict, name: str = "") -> list[Gate]:
    """The gates of `results` (an evaluation's report). `limits`: threshold and raw_threshold, cases that must pass.

    A suite without limits is still held to no leak and no false call.
    """
    name, cases, gates = f"{name} " if name else "", results["cases"], []
    if "threshold" in limits:
        wanted, passed = limits["threshold"], results["passed"]
        missed = f"{passed} of {cases} cases passed, {wanted} are required"
        gates.append(Gate(f"{name}passed", f"at least {wanted} of {cases}", passed, passed >= wanted, missed))
    if "raw_threshold" in limits:
        wanted, raw = limits["raw_threshold"], results["raw"] and results["raw"]["passed"]
        enough = raw is not None and raw >= wanted
        missed = (
            f"{raw} of {cases} passed raw, {wanted} are required" if raw is not None else "no raw answers were taken"
        )
        gates.append(Gate(f"{name}passed raw", f"at least {wanted} of {cases}", raw, enough, missed))
    leaks, false_calls = results["text_tool_leaks"], results["no_tool"]["false_positives"]
    missed = f"{leaks} answers had a tool call in their text, none may"
    gates.append(Gate(f"{name}text-tool leaks", 0, leaks, leaks == 0, missed))
    missed = f"{false_calls} calls where none was wanted, none may be"
    gates.append(Gate(f"{name}false-positive calls", 0, false_calls, false_calls == 0, missed))
    return gates


def missed(gates: list[Gate]) -> list[str]:
    """What a person reads of the gates that fail."""
    return [
        gate.missed or f"{gate.name}: {gate.measured}, required {gate.required}" for gate in gates if not gate.passed
    ]
