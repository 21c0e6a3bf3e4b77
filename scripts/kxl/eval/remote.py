"""What a server that somebody else runs needs: a key, and the cause in plain words when it is not reached.

The environment variable HERMES_KXL_API_KEY is sent to such a server as a bearer token, and to no other. The key
stands in no command line, message, report or log.
"""

import ipaddress
import os
from urllib.parse import urlsplit

import requests

from kxl.base.cli import UserError

KEY = "HERMES_KXL_API_KEY"
HIDDEN = "[the API key]"
SHORTEST = 6  # characters; servers without a lock take any word for a key, and "none" stays a word in answers


class Bearer(requests.auth.AuthBase):
    """Sends the key with each request. An AuthBase, because requests lets a .netrc overwrite a plain header."""

    def __init__(self, key: str):
        self._key = key

    def __call__(self, request):
        request.headers["Authorization"] = f"Bearer {self._key}"
        return request


def api_key() -> str | None:
    """The key in the environment; UserError where no header can carry it."""
    key = os.environ.get(KEY, "").strip()
    if not all("!" <= character <= "~" for character in key):
        raise UserError(f"{KEY} holds a space, a line break or a letter that no key has; set it again")
    return key or None


def hide_key(text: str) -> str:
    """A text without the key, for what is printed: servers repeat it in their errors."""
    key = os.environ.get(KEY, "").strip()
    return text.replace(key, HIDDEN) if len(key) >= SHORTEST else text


def without_key(value):
    """A JSON value without the key, for what is kept: a model may have seen it, or a server may repeat it."""
    if isinstance(value, str):
        return hide_key(value)
    if isinstance(value, list | tuple):
        return [without_key(item) for item in value]
    if isinstance(value, dict):
        return {hide_key(name): without_key(item) for name, item in value.items()}
    return value


def cause(error: requests.RequestException) -> str:
    """Why a request did not arrive, in a few words."""
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy that the environment names does not let it through"
    if isinstance(error, requests.exceptions.SSLError):
        return "the encrypted connection failed: is it http, or the certificate not trusted?"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    said = str(error)
    for signs, words in (
        (("Connection refused",), "connection refused"),
        (("NameResolution", "getaddrinfo", "Name or service not known", "nodename nor servname"), "no such host"),
        (("No route to host", "Network is unreachable"), "no way to that host"),
        (("Connection aborted", "closed connection", "Connection reset"), "it closed the connection"),
    ):
        if any(sign in said for sign in signs):
            return words
    return hide_key(f"{type(error).__name__}: {said}"[:200])


def is_loopback(url: str) -> bool:
    """Whether an address is this machine's own."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def without_keys(env: dict) -> dict:
    """The environment of a server of ours: not the key to somebody else's, and no LLAMA_ARG_… or LLAMA_API_KEY, by
    which llama-server would start otherwise than we say."""
    return {name: value for name, value in env.items() if name != KEY and not name.startswith("LLAMA_")}
