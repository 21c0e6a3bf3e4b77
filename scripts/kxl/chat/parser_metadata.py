"""The line in tokenizer_config.json that tells mlx_lm.server how to read tool calls.

Without it a server answers with the native markers as text. mlx-lm 0.32.2 finds the parser by itself from the
template, older versions do not; so every checkpoint that we write says it.
"""

from pathlib import Path

from kxl.base.cli import UserError
from kxl.base.files import read_json, read_text, shown, write_json

KEY, PYTHONIC = "tool_parser_type", "pythonic"


def declare(folder: Path) -> None:
    """Set the key in a checkpoint folder of ours."""
    path = Path(folder) / "tokenizer_config.json"
    config = read_json(path)
    if not isinstance(config, dict):
        raise UserError(f"{shown(path)}: is no JSON object")
    if config.get(KEY) != PYTHONIC:
        write_json(path, {**config, KEY: PYTHONIC})


def problems(folder: Path) -> list[str]:
    """What a checkpoint folder lacks for structured tool calls, one sentence each, with what to do."""
    from kxl.chat import tool_syntax

    folder, found = Path(folder), []
    config = read_json(folder / "tokenizer_config.json")
    if config.get(KEY) != PYTHONIC:
        found.append(
            f'{shown(folder / "tokenizer_config.json")} says "{KEY}": {config.get(KEY)!r}; set it to "{PYTHONIC}"'
        )
    template = folder / "chat_template.jinja"
    text = read_text(template) if template.is_file() else config.get("chat_template") or ""
    if not text:
        found.append(
            f"{shown(folder)} has no chat template; put chat_template.jinja there "
            f"(configs/templates/lfm2.5-tools.jinja)"
        )
    elif "tools" not in text:
        found.append(
            f"{shown(template)} does not write the tool list into the prompt; take configs/templates/lfm2.5-tools.jinja"
        )
    tokens = {token["content"] for token in read_json(folder / "tokenizer.json").get("added_tokens", [])}
    for marker in (tool_syntax.CALL_START, tool_syntax.CALL_END):
        if marker not in tokens:
            found.append(
                f"{shown(folder / 'tokenizer.json')} has no token {marker}; the server looks for it in the "
                f"model's output"
            )
    return found
