"""The data files of the package, read as files on disk: importlib.resources would cost a fifth of a short answer's time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "data"


def read_text(name: str) -> str:
    """The text of that data file. Raises FileNotFoundError for a damaged installation."""
    return (FOLDER / name).read_text("utf-8")


def read_json(name: str) -> Any:
    """The content of that JSON data file."""
    return json.loads(read_text(name))
