"""The config.json of a model on the Hugging Face Hub: one small file, a short timeout, never when offline."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

TIMEOUT = 5.0
"""Seconds that a lookup may take in all."""


def offline() -> bool:
    """Whether the environment forbids the network (``HF_HUB_OFFLINE`` or ``TRANSFORMERS_OFFLINE``)."""
    return any(
        os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"}
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def config_from_hub(model_id: str) -> dict[str, Any] | None:
    """The model's config, or None when it cannot be had: offline, no huggingface_hub, unreachable, unknown, too large.

    Raises LoraAdviseError when the file that came is not a config.
    """
    if offline() or find_spec("huggingface_hub") is None:
        return None
    raw = _download(model_id)
    if raw is None:
        return None
    from lora_advise.config_json import parse_config

    return parse_config(raw, f"the config.json of {model_id} on the Hub")


def _download(model_id: str) -> bytes | None:
    """The bytes of config.json within the time and size limits.

    A thread that does not finish is left behind as a daemon: a name look-up cannot be cancelled otherwise.
    """
    from queue import Empty, Queue
    from threading import Thread

    answer: Queue[bytes | None] = Queue()
    Thread(target=lambda: answer.put(_read(model_id)), daemon=True).start()
    try:
        return answer.get(timeout=TIMEOUT)
    except Empty:
        return None


def _read(model_id: str) -> bytes | None:
    from http.client import HTTPException
    from urllib.error import URLError
    from urllib.request import Request, urlopen

    from huggingface_hub import get_token, hf_hub_url

    from lora_advise.config_json import CONFIG_LIMIT

    try:
        url = hf_hub_url(model_id, "config.json")
        if not url.startswith(("https://", "http://")):
            return None
        request = Request(url)  # noqa: S310 - scheme checked above
        token = get_token()
        if token:
            # Unredirected: the token must not follow a redirect to another host.
            request.add_unredirected_header("Authorization", f"Bearer {token}")
        with urlopen(request, timeout=TIMEOUT / 2) as response:  # noqa: S310 - scheme checked above
            raw: bytes = response.read(CONFIG_LIMIT + 1)
    except (URLError, HTTPException, OSError, ValueError):
        return None
    return raw if len(raw) <= CONFIG_LIMIT else None
