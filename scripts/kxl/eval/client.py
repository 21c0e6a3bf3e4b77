"""The requests to a model server for one eval case: its answer as an agent sees it and as the model wrote it.

`ask` returns (parsed, raw). parsed is what /v1/chat/completions gave, read as Hermes reads it (replies.py):
llama-server guides the model by a grammar there, once it has begun a call, so this hides broken syntax. raw is read
from the model's own tokens, without grammar or server-side parser:

  llama_cpp  a second request: /apply-template, then /completion, then /detokenize
  mlx        the same generation: mlx_lm.server samples freely and reports the token ids
  openai     None: a server that we know nothing about shows no tokens

A server that cannot read its own model's call has given an answer (an unreadable one). A server that is busy or
stumbles (HTTP 429, 5xx, a reply that is no answer) is asked again a little later, and the stumble is noted in
`stumbles`, apart from every verdict. One that dies, hangs, refuses the request or keeps stumbling is a ServerError.
"""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import requests

from kxl.base.cli import UserError
from kxl.chat import thoughts, tool_syntax
from kxl.eval import filler, remote, replies
from kxl.eval.server import Server, served_model
from kxl.eval.suites import Suite
from kxl.eval.verdicts import Answer

BACKENDS = ("llama_cpp", "mlx", "openai")

# llama-server cannot roll a hybrid model's short-conv state back to an arbitrary token, only to a checkpoint
# it has made. With this hint it makes one where the last user message begins, so that each case costs only its
# own words: 78 of 13,808 prompt tokens processed instead of 347, and 4 for the chat request that follows.
DELIMITERS = [{"role": "user", "delimiter": "<|im_start|>user"}]

PAUSES = (0.5, 2.0)  # seconds before a stumbling server is asked again

# What llama-server says, with HTTP 500, when the model's text does not fit its tool-call grammar.
UNPARSED = "does not match the expected"

# A connection that ended before the answer did.
DROPPED = (requests.ConnectionError, requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError)

# A repetition penalty looks back as far on either server; their own defaults are 64 and 20 tokens.
PENALTY_WINDOW = 64


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn: greedily at temperature 0, else by these settings alone, with a seed for each trial.

    top_k: how many tokens may be drawn, 0 = all. repetition_penalty: 1 = none.
    """

    temperature: float = 0
    top_k: int = 0
    repetition_penalty: float = 1
    seed: int = 1

    def request(self, backend: str, trial: int) -> dict:
        """The settings in a server's own names. What is not set is switched off where the server has a default."""
        if not self.temperature:
            return {"temperature": 0}
        settings = {"temperature": self.temperature, "seed": self.seed + trial}
        if backend == "llama_cpp":
            settings |= {"top_k": self.top_k, "top_p": 1.0, "min_p": 0.0}
            penalty = {"repeat_penalty": self.repetition_penalty, "repeat_last_n": PENALTY_WINDOW}
        elif backend == "mlx":
            settings |= {"top_k": self.top_k, "top_p": 1.0, "min_p": 0.0}
            penalty = {"repetition_penalty": self.repetition_penalty, "repetition_context_size": PENALTY_WINDOW}
        else:  # a server that we know nothing about may refuse what it does not know
            settings |= {"top_k": self.top_k} if self.top_k else {}
            penalty = {"repetition_penalty": self.repetition_penalty}
        return settings | (penalty if self.repetition_penalty != 1 else {})


@dataclass
class Client:
    """How to ask. `model` is the name sent along, or None; `tokenizer` decodes token ids (mlx only).

    `thinking_tokens` is what an answer may have beyond its suite's cap, to think before it.
    """

    server: Server
    backend: str
    model: str | None = None
    seconds: float = 300
    tokenizer: object = None
    sampling: Sampling = Sampling()
    thinking_tokens: int = 0
    stumbles: list = field(default_factory=list)

    def take_name(self) -> list | None:
        """What an external server says it serves, None where it does not tell. Without a name for the model, requests
        carry the served one from now on, where there is only one.
        """
        served = served_model(self.server)
        if served and len(served) == 1 and not self.model:
            self.model = served[0]
        return served

    def ask(self, suite: Suite, case: dict, trial: int = 0) -> tuple:
        """(parsed Answer, raw Answer or None) of one case."""
        suite = suite.of(case)
        if "fill" in case:
            case = {**case, "messages": self._filled(suite, case)}
        sampling = self.sampling.request(self.backend, trial)
        # llama.cpp: raw first, because it leaves the checkpoint that the chat request continues from.
        raw = self._raw(suite, case, sampling) if self.backend == "llama_cpp" else None
        body = {"messages": case["messages"], "max_tokens": self._cap(suite), **sampling}
        if suite.tools:
            body |= {"tools": suite.tools, "parallel_tool_calls": True}
        if self.model:
            body["model"] = self.model
        if self.backend == "mlx":
            body["logprobs"] = True
        started = time.monotonic()

        def read(reply) -> tuple:
            answer = replies.read_chat(reply, suite.names())
            answer.seconds = time.monotonic() - started
            raw_answer = self._raw_mlx(reply, suite, answer) if self.backend == "mlx" else raw
            # A server that tells thought and text apart does not say whether the thought ended; the tokens do.
            if raw_answer and raw_answer.thought and raw_answer.thought.strip() == (answer.thought or "").strip():
                answer.thought_ended = raw_answer.thought_ended
            return answer, raw_answer

        answers, error = self.post("/v1/chat/completions", body, case, read)
        if error:
            return Answer("", [], "malformed", [error]), raw
        for answer in filter(None, answers):
            self._count_thought(answer, case)
        return answers

    def _cap(self, suite: Suite) -> int:
        return suite.max_tokens + self.thinking_tokens

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
            return filler.fill(case["messages"], filler.most_lines(tokens, case["fill"] - self._cap(suite)), case["id"])
        except ValueError as error:
            raise UserError(f"case {case['id']} of {suite.name}: {error}; give it a larger fill") from None

    def _tokens(self, suite: Suite, case: dict) -> int:
        """Tokens of a case's whole prompt: exact on llama.cpp; of its JSON text by the tokenizer on MLX; else a
        quarter of its characters."""
        if self.backend == "llama_cpp":
            return self._tokenized(self.prompt(suite, case), case)
        body = {"messages": case["messages"], **({"tools": suite.tools} if suite.tools else {})}
        text = json.dumps(body, ensure_ascii=False)
        return len(self.tokenizer.encode(text).ids) if self.tokenizer else len(text) // 4

    def _count_thought(self, answer: Answer, case: dict) -> None:
        """Fill in how many tokens a thought has, where the server has not said so."""
        if not answer.thought or answer.thought_tokens:
            return
        if self.backend == "llama_cpp":
            answer.thought_tokens = self._tokenized(answer.thought, case)
        elif self.tokenizer:
            answer.thought_tokens = len(self.tokenizer.encode(answer.thought, add_special_tokens=False).ids)
        else:
            answer.thought_tokens = max(1, len(answer.thought) // 4)

    def prompt(self, suite: Suite, case: dict) -> str:
        """The text that the model's chat template makes of a case (llama.cpp only)."""
        body = {"messages": case["messages"]}
        if suite.tools:
            body |= {"tools": suite.tools, "parallel_tool_calls": True}
        return self._must("/apply-template", body, case, lambda reply: _field(reply, "prompt", str))

    def _tokenized(self, text: str, case: dict) -> int:
        body = {"content": text, "parse_special": True}
        return self._must("/tokenize", body, case, lambda reply: len(_field(reply, "tokens", list)))

    def _raw(self, suite: Suite, case: dict, sampling: dict) -> Answer:
        prompt = self.prompt(suite, case)
        started = time.monotonic()

        def read(reply) -> tuple:
            return reply, _field(reply, "tokens", list), _field(reply, "stop_type", str)

        reply, tokens, stop = self._must(
            "/completion",
            {
                "prompt": prompt,
                **sampling,
                "n_predict": self._cap(suite),
                "cache_prompt": True,
                "return_tokens": True,
                "message_delimiters": DELIMITERS,
            },
            case,
            read,
        )
        seconds = time.monotonic() - started
        text = self._must("/detokenize", {"tokens": tokens}, case, lambda reply: _field(reply, "content", str))
        answer = read_raw(text, suite, cut=stop == "limit", opened=prompt.rstrip().endswith(thoughts.START))
        answer.prompt_tokens = replies.count(reply, "tokens_evaluated")
        answer.cached_tokens = replies.count(reply, "timings", "cache_n")
        answer.seconds, answer.output_tokens = seconds, len(tokens)
        return answer

    def _raw_mlx(self, reply, suite: Suite, parsed: Answer) -> Answer:
        choice = reply["choices"][0]
        try:
            ids = [token["id"] for token in choice["logprobs"]["content"]]
            cut = choice.get("finish_reason") == "length"
            # The last token of a finished turn is the one that ended it.
            text = self.tokenizer.decode(ids if cut else ids[:-1], skip_special_tokens=False)
        except (KeyError, TypeError, OverflowError):
            raise replies.OddReply(
                "has no token ids in `logprobs`, as mlx_lm.server's have; score any other server with --backend openai"
            ) from None
        # The server knows where a thought began that the template opened: in the prompt.
        opened = bool(parsed.thought) and not thoughts.HEAD.match(text)
        return read_raw(text, suite, cut, opened)

    def _must(self, path: str, body: dict, case: dict, read):
        found, error = self.post(path, body, case, read)
        if error:
            raise self.server.failure(f"failed on case {case['id']}: {error}")
        return found

    def post(self, path: str, body: dict, case: dict, read) -> tuple:
        """(read(reply), None), or (None, why) where the server lives but could not read the model's text.

        A server that stumbles is asked again. `read` raises OddReply for a reply that is none.
        """
        for pause in (*PAUSES, None):
            reply, error = self._once(path, body, case)
            if error:
                return None, error
            if reply.ok:
                try:
                    return read(replies.read_json(_text(reply))), None
                except replies.OddReply as odd:
                    problem = f"gave case {case['id']} a reply ({path}) that {odd}"
            else:
                problem = f"answered case {case['id']} ({path}) with HTTP {reply.status_code}: {_said(reply)}"
            if pause is None or not (reply.ok or reply.status_code == 429 or reply.status_code >= 500):
                raise self.server.failure(problem + _advice(path, reply.status_code))
            self.stumbles.append({"case": case["id"], "path": path, "status": reply.status_code})
            time.sleep(pause)

    def _once(self, path: str, body: dict, case: dict) -> tuple:
        """(HTTP reply, None), or (None, why) where the server could not read the model's text."""
        for _ in range(2):
            try:
                reply = self.server.post(path, body, self.seconds)
                break
            except requests.Timeout:
                raise self.server.failure(
                    f"gave no answer to case {case['id']} within {self.seconds:.0f} s (--timeout)"
                ) from None
            except DROPPED as error:
                if not self.server.alive():
                    raise self.server.failure(self.server.gone(error, case["id"])) from None
            except requests.RequestException as error:
                raise self.server.failure(f"cannot be asked case {case['id']}: {remote.cause(error)}") from None
        else:
            return (
                None,
                "the server dropped the connection twice and lives: its tool parser crashed on the model's text",
            )
        if reply.is_redirect:
            raise self.server.failure(f"sends case {case['id']} on to {reply.headers['Location']}; give that as --url")
        if reply.status_code == 500 and UNPARSED in _text(reply):
            return None, f"the server could not read it: {_said(reply)}"
        return reply, None


def _field(reply, name: str, kind: type):
    """A member of a JSON reply. OddReply where it is missing or of another type."""
    found = reply.get(name) if isinstance(reply, dict) else None
    if not isinstance(found, kind):
        what = replies.error_message(reply) or json.dumps(reply, ensure_ascii=False)
        raise replies.OddReply(f"has no {name}: {replies.excerpt(what)}")
    return found


def _text(reply: requests.Response) -> str:
    """The body; JSON is UTF-8, whatever the headers do not say."""
    return reply.content.decode("utf-8-sig", "replace")


def _said(reply: requests.Response) -> str:
    """What a server says of an error: the message, else the text."""
    try:
        message = replies.error_message(replies.read_json(_text(reply)))
    except replies.OddReply:
        message = None
    return replies.excerpt(message or _text(reply))


def _advice(path: str, status: int) -> str:
    if status in (401, 403):
        return f"; the key for it belongs into the environment variable {remote.KEY}"
    if status == 404 and path != "/v1/chat/completions":
        return "; only llama-server has that: score any other server with --backend openai"
    return ""


def read_raw(text: str, suite: Suite, cut: bool, opened: bool = False) -> Answer:
    """The model's own text as an Answer; `cut` when it reached the token limit, `opened` when the prompt ended with
    the beginning of a thought."""
    turn = thoughts.split(text.removesuffix(tool_syntax.TURN_END), opened)
    parsed = tool_syntax.parse(turn.visible, suite.names())
    finish = "length" if cut else "tool_calls" if parsed.calls or parsed.errors else "stop"
    return Answer(
        parsed.content,
        parsed.calls,
        finish,
        parsed.errors,
        raw_text=text,
        thought=turn.thought,
        thought_ended=turn.ended,
    )


def load_tokenizer(model: Path):
    """The checkpoint's tokenizer, for `Client.tokenizer`. UserError where its tokenizer.json is missing or none."""
    from tokenizers import Tokenizer

    path = Path(model) / "tokenizer.json"
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing finer
        raise UserError(f"{path}: no tokenizer can be read from it ({error}); name the checkpoint's folder") from None
