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
