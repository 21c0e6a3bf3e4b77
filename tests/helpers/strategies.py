"""Values and calls as hypothesis draws them: every kind of text that breaks naive quoting."""

from hypothesis import strategies as st

# Everything that has a UTF-8 form, and more often than by chance what breaks naive quoting.
texts = st.text(st.characters(exclude_categories=["Cs"])) | st.lists(
    st.sampled_from(
        [
            "'",
            '"',
            "\\",
            "\n",
            "\t",
            "\r",
            "\0",
            "\x1b",
            "\x7f",
            "\u2028",
            "/",
            "</",
            "é",
            "😀",
            "\\n",
            "\\d",
            "\\u0041",
            "{}",
            "[",
            "]",
            ")",
            ")]",
            ", ",
            "=",
            "a', n=5, u='b",
            'a", n=5, t="b',
            " ",
            "True",
            "None",
            "`",
            "${x}",
            "{{",
            "%}",
            "<|im_end|>",
        ]
    )
).map("".join)
numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)
arguments = st.fixed_dictionaries({}, optional={"s": texts, "t": texts, "v": values, "n": st.integers(-10, 10)}).filter(
    len
)
calls = st.lists(
    st.fixed_dictionaries({"name": st.sampled_from(["first", "second"]), "arguments": arguments}),
    min_size=1,
    max_size=3,
)
