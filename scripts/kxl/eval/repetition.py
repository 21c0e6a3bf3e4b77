"""Whether a text has collapsed into repetition, as a broken or over-quantized model's does.

Three signs, each with numbers that ordinary prose and listings do not reach: a run of words that follows on
itself again and again, one letter or digit typed over and over, a long text of few different word sequences.
"""

import re
from collections import Counter

ONE_WORD = 6  # "no no no no no no"
SEVERAL_WORDS = 4  # a phrase of two words or more, four times in a row
LONGEST_PHRASE = 24  # words
ONE_LETTER = 20
FEW = 0.4  # share of different sequences of four words, in a text of
LONG = 48  # words or more


def collapse(text: str) -> str | None:
    """What repeats, for people; None where nothing does."""
    if match := re.search(rf"([^\W_])\1{{{ONE_LETTER - 1},}}", text):
        return f"{match[1]!r} {len(match[0])} times in a row"
    words = re.findall(r"\w+", text.casefold())
    for size in range(1, LONGEST_PHRASE + 1):
        needed, run = ONE_WORD if size == 1 else SEVERAL_WORDS, 0
        for place in range(size, len(words)):
            run = run + 1 if words[place] == words[place - size] else 0
            phrase = words[place - size + 1 : place + 1]
            # Numbers in a row are data, such as the exit codes or bytes of a listing.
            if run == (needed - 1) * size and not all(word.isdigit() for word in phrase):
                return f"{' '.join(phrase)!r} {needed} times in a row"
    fours = Counter(tuple(words[i : i + 4]) for i in range(len(words) - 3))
    if len(words) >= LONG and len(fours) < FEW * (len(words) - 3):
        return f"{' '.join(fours.most_common(1)[0][0])!r} {fours.most_common(1)[0][1]} times"
    return None
