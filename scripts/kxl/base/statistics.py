"""What a count of passed cases says about the share that would pass."""

import math

Z95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution


def wilson(passed: int, cases: int, z: float = Z95) -> tuple[float, float]:
    """Wilson score interval of a share (E. B. Wilson, JASA 22, 1927): 43 of 43 is 0.918 to 1."""
    if not 0 <= passed <= cases or cases == 0:
        raise ValueError(f"{passed} of {cases} cases")
    return _wilson(passed / cases, cases, z)


def _wilson(share: float, cases: float, z: float) -> tuple[float, float]:
    square = z * z / cases
    middle = (share + square / 2) / (1 + square)
    half = z / (1 + square) * math.sqrt(share * (1 - share) / cases + square / (4 * cases))
    return max(0.0, middle - half), min(1.0, middle + half)


def clustered(passed: list[int], trials: int, z: float = Z95) -> tuple[float, float]:
    """Interval of the share of tries that pass, where the `trials` of one case are no independent tries.

    passed: for each case, how many of its `trials` passed. Wilson's interval with the effective number of tries in
    place of their number: share (1 - share) / variance of the mean over cases (Korn and Graubard, Survey Methodology
    24, 1998), kept between the number of cases and that of tries. Where all or none pass it is the number of cases.
    """
    cases = len(passed)
    share = sum(passed) / (trials * cases)
    effective = float(cases)
    if cases > 1 and 0 < share < 1:
        spread = sum((count / trials - share) ** 2 for count in passed) / (cases - 1)
        effective = share * (1 - share) * cases / spread if spread else math.inf
    effective = min(max(effective, cases), trials * cases)
    return _wilson(share, effective, z)


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


Z90 = 1.6448536269514722  # 95 % quantile: two one-sided tests at 5 % are one interval of 90 %


def paired_interval(only_first: int, only_second: int, cases: int, z: float = Z90) -> tuple[float, float]:
    """Score interval of a difference of two shares on the same cases, second less first (T. Tango, Statistics in
    Medicine 17, 1998). The default z gives 90 %.

    only_first, only_second: cases that only the one, only the other passed. Where no case differs the interval is
    not empty: 0 of 43 says less than 0 of 400.
    """
    if min(only_first, only_second) < 0 or only_first + only_second > cases or cases == 0:
        raise ValueError(f"{only_first} and {only_second} of {cases} cases")

    def score(difference: float) -> float:
        # The likelihood's share of cases that only the first passed, where the true difference is `difference`.
        a = 2 * cases
        b = -only_second - only_first + (2 * cases - only_second + only_first) * difference
        c = -only_first * difference * (1 - difference)
        share = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
        variance = cases * (2 * share + difference * (1 - difference))
        distance = only_second - only_first - cases * difference
        if variance <= 0:
            return math.copysign(math.inf, distance) if distance else 0.0
        return distance / math.sqrt(variance)

    def end(wanted: float) -> float:
        low, high = -1.0, 1.0  # the score falls as the difference grows
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if score(middle) > wanted else (low, middle)
        return (low + high) / 2

    return end(z), end(-z)


def equivalent(only_first: int, only_second: int, cases: int, margin: float) -> bool:
    """Whether two one-sided tests at 5 % both say that the shares differ by less than `margin` (D. J. Schuirmann,
    1987): the 90 % interval of the difference lies within it."""
    low, high = paired_interval(only_first, only_second, cases)
    return -margin < low and high < margin


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
