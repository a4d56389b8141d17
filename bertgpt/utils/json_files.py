"""Reading JSON that may be damaged or hostile."""

import json
from pathlib import Path
from typing import Any

from bertgpt.utils.errors import BertGPTError


def parse_json(text: str | bytes) -> Any:
    """Parse JSON; a ValueError if it is invalid or nested too deeply for Python."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json_object(path: Path, code: str, what: str) -> dict[str, Any]:
    """The JSON object in a file; an error with this code if it cannot be read, which names the file as `what`."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError) as error:
        raise BertGPTError(code, f"{what} cannot be read", path=str(path), cause=str(error)) from None
    return content
