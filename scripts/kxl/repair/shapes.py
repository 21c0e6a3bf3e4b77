"""What a repair row is trained as: tokens and loss mask in one of three shapes.

  structured   the conversation as the server renders it, tools in front, loss on the assistant turns alone
  text         the conversation without its tool list, as plain text, loss on every token
  server_text  the conversation as the server renders it, tool JSON and all, as plain text, loss on every token

The last two are how `mlx_lm.lora` trains {"text": ...} rows. They are here because the reference model failed with
them, so that the comparison can be made again.
"""

import numpy as np

from kxl.base.cli import UserError
from kxl.chat import loss_mask
from kxl.lora.prefix import Example


def encode(chat: loss_mask.Chat, rows: list, shape: str, max_tokens: int) -> list[Example]:
    """Rows {"messages", "tools"} as tokens and loss masks. UserError for a row of more than `max_tokens` tokens.

    A row whose earlier thoughts the template leaves out is several examples (kxl/chat/loss_mask.py).
    """
    examples = []
    for number, row in enumerate(rows, 1):
        if shape == "structured":
            sequences = loss_mask.sequences(chat, row)
        else:
            text = chat.render(row["messages"], row["tools"] if shape == "server_text" else None)
            tokens = np.array(chat.tokenizer.encode(text, add_special_tokens=False).ids, np.int32)
            sequences = [(tokens, np.ones(len(tokens), bool))]
        for tokens, mask in sequences:
            if len(tokens) > max_tokens:
                raise UserError(
                    f"row {number} has {len(tokens):,} tokens and {max_tokens:,} are taken; shorten its tool list, "
                    "leave it out or raise --max-tokens"
                )
            examples.append(Example(tokens, mask))
    return examples
