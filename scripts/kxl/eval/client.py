"""Ask a model server for the answer to one eval case, as an agent sees it and as the model wrote it.

`ask` returns (parsed, raw). parsed is what /v1/chat/completions gave: llama-server guides the model by
a grammar there, once it has begun a call, so this hides broken syntax. raw is read from the model's own
tokens, without grammar or server-side parser:

  llama_cpp  a second request: /apply-template, then /completion, then /detokenize
  mlx        the same generation: mlx_lm.server samples freely and reports the token ids
  openai     None: a server that we know nothing about shows no tokens

A server that cannot read its own model's call has given an answer (an unreadable one). A server that is busy
or stumbles (HTTP 429, 5xx) is asked again a little later, and the stumble is noted in `stumbles`, apart from every
verdict. One that dies, hangs, refuses the request or keeps stumbling is a ServerError.
"""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import requests

from kxl.base.cli import UserError
from kxl.chat import tool_syntax
from kxl.eval import filler
from kxl.eval.server import Server
from kxl.eval.suites import Answer, Suite

BACKENDS = ("llama_cpp", "mlx", "openai")

# llama-server cannot roll a hybrid model's short-conv state back to an arbitrary token, only to a checkpoint
# it has made. With this hint it makes one where the last user message begins, so that each case costs only its
# own words: 78 of 13,808 prompt tokens processed instead of 347, and 4 for the chat request that follows.
DELIMITERS = [{"role": "user", "delimiter": "<|im_start|>user"}]

PAUSES = (0.5, 2.0)  # seconds before a stumbling server is asked again

# What llama-server says, with HTTP 500, when the model's text does not fit its tool-call grammar.
UNPARSED = "does not match the expected"


@dataclass
class Client:
    """How to ask. `model` is the name sent along, or None; `tokenizer` decodes token ids (mlx only).

    Above temperature 0, `seed` plus the trial's number is sent as the sampling seed.
    """

    server: Server
    backend: str
    model: str | None = None
    seconds: float = 300
    tokenizer: object = None
    temperature: float = 0
    seed: int = 0
    stumbles: list = field(default_factory=list)

    def ask(self, suite: Suite, case: dict, trial: int = 0) -> tuple:
        """(parsed Answer, raw Answer or None) of one case."""
        suite = suite.of(case)
        if "fill" in case:
            case = {**case, "messages": self._filled(suite, case)}
        sampling = {"temperature": self.temperature, **({"seed": self.seed + trial} if self.temperature else {})}
        # llama.cpp: raw first, because it leaves the checkpoint that the chat request continues from.
        raw = self._raw(suite, case, sampling) if self.backend == "llama_cpp" else None
        body = {"messages": case["messages"], "max_tokens": suite.max_tokens, **sampling}
        if suite.tools:
            body |= {"tools": suite.tools, "parallel_tool_calls": True}
        if self.model:
            body["model"] = self.model
        if self.backend == "mlx":
            body["logprobs"] = True
        started = time.monotonic()
        reply, error = self._post("/v1/chat/completions", body, case)
        if error:
            return Answer("", [], "malformed", [error]), raw
        parsed = _parsed(reply)
        parsed.seconds = time.monotonic() - started
        if self.backend == "mlx":
            raw = self._raw_mlx(reply, suite)
        return parsed, raw

    def _filled(self, suite: Suite, case: dict) -> list:
        """The case's messages with as much filler as its prompt takes beside the longest answer."""
        counted: dict[int, int] = {}

        def tokens(count: int) -> int:
            if count not in counted:
                counted[count] = self._tokens(
                    suite, {**case, "messages": filler.fill(case["messages"], count, case["id"])}
                )
            return counted[count]

        try:
            return filler.fill(case["messages"], filler.most_lines(tokens, case["fill"] - suite.max_tokens), case["id"])
        except ValueError as error:
            raise UserError(f"case {case['id']} of {suite.name}: {error}; give it a larger fill") from None

    def _tokens(self, suite: Suite, case: dict) -> int:
        """Tokens of a case's whole prompt: exact on llama.cpp; of its JSON text by the tokenizer on MLX; else a quarter of its characters."""
        body = {"messages": case["messages"], **({"tools": suite.tools} if suite.tools else {})}
        if self.backend == "llama_cpp":
            prompt = self._must("/apply-template", body, case)["prompt"]
            return len(self._must("/tokenize", {"content": prompt, "parse_special": True}, case)["tokens"])
        text = json.dumps(body, ensure_ascii=False)
        return len(self.tokenizer.encode(text).ids) if self.tokenizer else len(text) // 4

    def _raw(self, suite: Suite, case: dict, sampling: dict) -> Answer:
        body = {"messages": case["messages"]}
        if suite.tools:
            body |= {"tools": suite.tools, "parallel_tool_calls": True}
        prompt = self._must("/apply-template", body, case)["prompt"]
        started = time.monotonic()
        reply = self._must(
            "/completion",
            {
                "prompt": prompt,
                **sampling,
                "n_predict": suite.max_tokens,
                "cache_prompt": True,
                "return_tokens": True,
                "message_delimiters": DELIMITERS,
            },
            case,
        )
        seconds = time.monotonic() - started
        text = self._must("/detokenize", {"tokens": reply["tokens"]}, case)["content"]
        answer = read_raw(text, suite, cut=reply["stop_type"] == "limit")
        answer.prompt_tokens, answer.cached_tokens = reply["tokens_evaluated"], reply["timings"]["cache_n"]
        answer.seconds, answer.output_tokens = seconds, len(reply["tokens"])
        return answer

    def _raw_mlx(self, reply: dict, suite: Suite) -> Answer:
        choice = reply["choices"][0]
        ids = [token["id"] for token in choice["logprobs"]["content"]]
        cut = choice["finish_reason"] == "length"
        # The last token of a finished turn is the one that ended it.
        text = self.tokenizer.decode(ids if cut else ids[:-1], skip_special_tokens=False)
        return read_raw(text, suite, cut)

    def _must(self, path: str, body: dict, case: dict) -> dict:
        reply, error = self._post(path, body, case)
        if error:
            raise self.server.failure(f"failed on case {case['id']}: {error}")
        return reply

    def _post(self, path: str, body: dict, case: dict) -> tuple:
        """(reply, None), or (None, why) where the server lives but could not read the model's text."""
        for pause in (*PAUSES, None):
            reply, error = self._once(path, body, case)
            if error or reply.status_code == 200:
                return (None, error) if error else (reply.json(), None)
            if pause is None or not (reply.status_code == 429 or reply.status_code >= 500):
                raise self.server.failure(
                    f"answered case {case['id']} ({path}) with HTTP {reply.status_code}: {reply.text[:500]}"
                )
            self.stumbles.append({"case": case["id"], "path": path, "status": reply.status_code})
            time.sleep(pause)

    def _once(self, path: str, body: dict, case: dict) -> tuple:
        """(HTTP reply, None), or (None, why) where the server could not read the model's text."""
        for _ in range(2):
            try:
                reply = self.server.http.post(self.server.url + path, json=body, timeout=self.seconds)
                break
            except requests.Timeout:
                raise self.server.failure(
                    f"gave no answer to case {case['id']} within {self.seconds:.0f} s (--timeout)"
                ) from None
            except requests.ConnectionError:
                if not self.server.alive():
                    raise self.server.failure(f"died on case {case['id']}") from None
        else:
            return (
                None,
                "the server dropped the connection twice and lives: its tool parser crashed on the model's text",
            )
        if reply.status_code == 500 and UNPARSED in reply.text:
            return None, f"the server could not read it: {reply.json()['error']['message']}"
        return reply, None


def _parsed(reply: dict) -> Answer:
    """An OpenAI chat completion as an Answer."""
    choice, usage = reply["choices"][0], reply.get("usage") or {}
    message = choice["message"]
    calls, errors = [], []
    for call in message.get("tool_calls") or []:
        name, text = call["function"]["name"], call["function"]["arguments"]
        try:
            arguments = json.loads(text)
        except json.JSONDecodeError as error:
            errors.append(f"arguments of {name} are not JSON ({error}): {text}")
            continue
        if isinstance(arguments, dict):
            calls.append({"name": name, "arguments": arguments})
        else:
            errors.append(f"arguments of {name} are not an object: {text}")
    if choice["finish_reason"] == "tool_calls" and not calls and not errors:
        errors.append("finish_reason is tool_calls but there is none: the server could not read it")
    return Answer(
        message.get("content") or "",
        calls,
        choice["finish_reason"],
        errors,
        prompt_tokens=usage.get("prompt_tokens", 0),
        output_tokens=usage.get("completion_tokens", 0),
        cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
    )


def read_raw(text: str, suite: Suite, cut: bool) -> Answer:
    """The model's own text as an Answer; `cut` when it reached the token limit."""
    parsed = tool_syntax.parse(text, [tool["function"]["name"] for tool in suite.tools])
    finish = "length" if cut else "tool_calls" if parsed.calls or parsed.errors else "stop"
    return Answer(parsed.content, parsed.calls, finish, parsed.errors, raw_text=text)


def load_tokenizer(model: Path):
    """The checkpoint's tokenizer, for `Client.tokenizer`."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(Path(model) / "tokenizer.json"))
