"""Ask a model server for the answer to one eval case, as an agent sees it and as the model wrote it.

`ask` returns (parsed, raw). parsed is what /v1/chat/completions gave: llama-server guides the model by
a grammar there, once it has begun a call, so this hides broken syntax. raw is read from the model's own
tokens, without grammar or server-side parser:

  llama_cpp  a second request: /apply-template, then /completion, then /detokenize
  mlx        the same generation: mlx_lm.server samples freely and reports the token ids
  openai     None: a server that we know nothing about shows no tokens

A server that cannot read its own model's call has given an answer (an unreadable one); a server that
dies, hangs or refuses the request is a ServerError.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import requests

import tool_syntax
from eval_case import Answer, Suite
from model_server import Server

BACKENDS = ("llama_cpp", "mlx", "openai")

# llama-server cannot roll a hybrid model's short-conv state back to an arbitrary token, only to a checkpoint
# it has made. With this hint it makes one where the last user message begins, so that each case costs only its
# own words: 78 of 13,808 prompt tokens processed instead of 347, and 4 for the chat request that follows.
DELIMITERS = [{"role": "user", "delimiter": "<|im_start|>user"}]

# What llama-server says, with HTTP 500, when the model's text does not fit its tool-call grammar.
UNPARSED = "does not match the expected"


@dataclass
class Client:
    """How to ask. `model` is the name sent along, or None; `tokenizer` decodes token ids (mlx only)."""
    server: Server
    backend: str
    model: str | None = None
    seconds: float = 300
    tokenizer: object = None

    def ask(self, suite: Suite, case: dict) -> tuple:
        """(parsed Answer, raw Answer or None) of one case, at temperature 0."""
        # llama.cpp: raw first, because it leaves the checkpoint that the chat request continues from.
        raw = self._raw(suite, case) if self.backend == "llama_cpp" else None
        body = {"messages": case["messages"], "temperature": 0, "max_tokens": suite.max_tokens}
        if suite.tools:
            body |= {"tools": suite.tools, "parallel_tool_calls": True}
        if self.model:
            body["model"] = self.model
        if self.backend == "mlx":
            body["logprobs"] = True
        reply, error = self._post("/v1/chat/completions", body, case)
        if error:
            return Answer("", [], "malformed", [error]), raw
        parsed = _parsed(reply)
        if self.backend == "mlx":
            raw = self._raw_mlx(reply, suite)
        return parsed, raw

    def _raw(self, suite: Suite, case: dict) -> Answer:
        body = {"messages": case["messages"]}
        if suite.tools:
            body |= {"tools": suite.tools, "parallel_tool_calls": True}
        prompt = self._must("/apply-template", body, case)["prompt"]
        reply = self._must("/completion", {
            "prompt": prompt, "temperature": 0, "n_predict": suite.max_tokens, "cache_prompt": True,
            "return_tokens": True, "message_delimiters": DELIMITERS}, case)
        text = self._must("/detokenize", {"tokens": reply["tokens"]}, case)["content"]
        answer = read_raw(text, suite, cut=reply["stop_type"] == "limit")
        answer.prompt_tokens, answer.cached_tokens = reply["tokens_evaluated"], reply["timings"]["cache_n"]
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
        for _ in range(2):
            try:
                reply = self.server.http.post(self.server.url + path, json=body, timeout=self.seconds)
                break
            except requests.Timeout:
                raise self.server.failure(f"gave no answer to case {case['id']} within {self.seconds:.0f} s"
                                          " (--timeout)") from None
            except requests.ConnectionError:
                if not self.server.alive():
                    raise self.server.failure(f"died on case {case['id']}") from None
        else:
            return None, "the server dropped the connection twice and lives: its tool parser crashed on the model's text"
        if reply.status_code == 500 and UNPARSED in reply.text:
            return None, f"the server could not read it: {reply.json()['error']['message']}"
        if reply.status_code != 200:
            raise self.server.failure(f"answered case {case['id']} ({path}) with HTTP {reply.status_code}: {reply.text[:500]}")
        return reply.json(), None


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
    return Answer(message.get("content") or "", calls, choice["finish_reason"], errors,
                  prompt_tokens=usage.get("prompt_tokens", 0),
                  cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0))


def read_raw(text: str, suite: Suite, cut: bool) -> Answer:
    """The model's own text as an Answer; `cut` when it reached the token limit."""
    parsed = tool_syntax.parse(text, [tool["function"]["name"] for tool in suite.tools])
    finish = "length" if cut else "tool_calls" if parsed.calls or parsed.errors else "stop"
    return Answer(parsed.content, parsed.calls, finish, parsed.errors, raw_text=text)


def load_tokenizer(model: Path):
    """The checkpoint's tokenizer, for `Client.tokenizer`."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(Path(model) / "tokenizer.json"))
