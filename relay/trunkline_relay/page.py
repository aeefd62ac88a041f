"""The status page: one file that asks `/status.json` and draws it, and the headers that it is served with."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from importlib import resources
from typing import Final

KIND: Final = "text/html; charset=utf-8"
JSON_HEADERS: Final = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@cache
def page() -> bytes:
    """The file."""
    return resources.files("trunkline_relay").joinpath("page.html").read_bytes()


@cache
def headers() -> Mapping[str, str]:
    """What a browser may do with the page: run the script and use the style that are in it, by their hashes, and ask
    its own server (https://www.w3.org/TR/CSP3/). Names of streams and subscriptions are other people's input: they are
    only ever set as text, and the browser holds the script to that (`require-trusted-types-for`)."""
    html = page().decode()
    policy = [
        "default-src 'none'",
        *(f"{part}-src {_hashes(html, part)}" for part in ("script", "style")),
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
    return {
        **JSON_HEADERS,
        "Content-Security-Policy": "; ".join(policy),
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "X-Frame-Options": "DENY",
    }


def _hashes(html: str, part: str) -> str:
    texts = re.findall(rf"<{part}>(.*?)</{part}>", html, re.DOTALL)
    return " ".join(f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" for text in texts)
