"""What a count of passed cases says about the share that would pass."""

import math

Z95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution


def wilson(passed: int, cases: int, z: float = Z95) -> tuple[float, float]:
    """Wilson score interval of a share (E. B. Wilson, JASA 22, 1927): 43 of 43 is 0.918 to 1."""
    if not 0 <= passed <= cases or cases == 0:
        raise ValueError(f"{passed} of {cases} cases")
    share, square = passed / cases, z * z / cases
    middle = (share + square / 2) / (1 + square)
    half = z / (1 + square) * math.sqrt(share * (1 - share) / cases + square / (4 * cases))
    return max(0.0, middle - half), min(1.0, middle + half)


def pass_hat(passed: list[int], trials: int, k: int) -> float:
    """Chance that k trials of a case all pass, averaged over cases: pass^k of tau-bench (arXiv 2406.12045).

    passed: for each case, how many of its `trials` passed. The estimate C(passed, k) / C(trials, k) is unbiased.
    """
    if not 1 <= k <= trials:
        raise ValueError(f"k is {k}, of {trials} trials")
    return sum(math.comb(count, k) for count in passed) / math.comb(trials, k) / len(passed)


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p of McNemar's test: how likely pairs that differ split at least this unevenly by chance.

    only_first, only_second: cases that only the one, only the other passed. Ties do not count.
    """
    pairs = only_first + only_second
    if pairs == 0:
        return 1.0
    tail = sum(math.comb(pairs, i) for i in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**pairs)


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
