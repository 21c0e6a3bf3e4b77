"""The four tokens that carry tool calls: which strings they are, and which ids they must have.

A config's "tool_tokens" maps each role to {"token": text, "id": number, "renames": text or null}:

  call_start, call_end          around the JSON of one call, emitted by the model
  response_start, response_end  around a tool's result, read by the model

"renames" is the unused special token whose id the role takes over in a vocabulary that has none of its own;
its row of the embedding stays where it is. `resolve` refuses a token that is not one id, or another id than
the config expects, because a model trained on the pieces of "<tool_call>" never learns to emit the token.
"""

from dataclasses import dataclass
from pathlib import Path

from kxl.base.cli import UserError
from kxl.base.files import read_json, shown, write_json

ROLES = ("call_start", "call_end", "response_start", "response_end")
TOKEN_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


@dataclass(frozen=True)
class ToolTokens:
    """The ids of the four roles, and their text."""

    call_start: int
    call_end: int
    response_start: int
    response_end: int
    text: dict

    @property
    def ids(self) -> tuple[int, int, int, int]:
        return tuple(getattr(self, role) for role in ROLES)


def roles(config: dict, source: str) -> dict:
    """config["tool_tokens"], complete and without a token or id named twice; UserError names `source`."""
    declared = config.get("tool_tokens")
    if not isinstance(declared, dict) or set(declared) != set(ROLES):
        raise UserError(f'{source}: "tool_tokens" must have exactly {", ".join(ROLES)}')
    for role, entry in declared.items():
        if not isinstance(entry.get("token"), str) or not isinstance(entry.get("id"), int):
            raise UserError(f'{source}: tool_tokens.{role} needs "token" (text) and "id" (a number)')
    for key in ("token", "id"):
        values = [entry[key] for entry in declared.values()]
        if len(set(values)) != len(values):
            raise UserError(f"{source}: two roles of tool_tokens have the same {key}")
    return declared


def resolve(config: dict, tokenizer, source: str) -> ToolTokens:
    """The ids of the config's tool tokens in a tokenizers.Tokenizer, each checked four ways.

    Raises UserError when a token is not in the vocabulary, has another id than the config expects, is cut into
    several pieces (alone or inside text), or does not decode back to itself.
    """
    ids = {}
    for role, entry in roles(config, source).items():
        token, expected = entry["token"], entry["id"]
        where = f"{source}: {role} {token!r}"
        actual = tokenizer.token_to_id(token)
        if actual is None:
            raise UserError(
                f"{where} is not in the vocabulary; name a token of this tokenizer"
                + (f", or rename {entry['renames']!r} to it first (make smol-base)" if entry.get("renames") else "")
            )
        if actual != expected:
            raise UserError(
                f"{where} has id {actual}, the config expects {expected}; this tokenizer belongs to another model,"
                " or the config's id is wrong"
            )
        for text in (token, f"a{token}b", f" {token} "):
            pieces = tokenizer.encode(text, add_special_tokens=False).ids
            if pieces.count(expected) != 1:
                raise UserError(
                    f"{where} is cut into the ids {pieces} in {text!r}; it must be one special token:"
                    " add it to added_tokens of tokenizer.json"
                )
        if tokenizer.decode([expected], skip_special_tokens=False) != token:
            raise UserError(
                f"{where}: id {expected} decodes to {tokenizer.decode([expected], skip_special_tokens=False)!r}"
            )
        ids[role] = expected
    return ToolTokens(**ids, text={role: entry["token"] for role, entry in config["tool_tokens"].items()})


def prompt_ids(chat, messages: list[dict], tools: list[dict] | None = None) -> list[int]:
    """Token ids of a conversation up to where the assistant's next turn begins; `chat` is a loss_mask.Chat."""
    text = chat.render(messages, tools, add_generation_prompt=True)
    return chat.tokenizer.encode(text, add_special_tokens=False).ids


def with_system(messages: list[dict], config: dict) -> list[dict]:
    """The messages with the config's "system" before them, where it has one and they do not.

    It is "/no_think" for SmolLM3: what is taught is a call at once, without a thought before it.
    """
    if not config.get("system") or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": config["system"]}, *messages]


def rename(config: dict, folder: Path) -> None:
    """Rename the unused tokens in a folder's tokenizer files; ids stay. UserError when one is not there with its id."""
    renames = {entry["renames"]: entry for entry in roles(config, shown(folder)).values() if entry.get("renames")}
    path = Path(folder) / "tokenizer.json"
    content = read_json(path)
    vocabulary = content["model"]["vocab"]
    for old, entry in renames.items():
        if entry["token"] in vocabulary:
            raise UserError(f"{shown(path)}: has {entry['token']!r} already; the config must not rename {old!r} to it")
        if vocabulary.get(old) != entry["id"]:
            raise UserError(f"{shown(path)}: {old!r} has id {vocabulary.get(old)}, the config expects {entry['id']}")
    for name in TOKEN_FILES:
        if (Path(folder) / name).is_file():
            write_json(
                Path(folder) / name,
                _renamed(read_json(Path(folder) / name), {old: entry["token"] for old, entry in renames.items()}),
            )


def _renamed(value, names: dict):
    """A JSON value with every key and string that is one of `names` replaced."""
    if isinstance(value, dict):
        return {names.get(key, key): _renamed(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [_renamed(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value
