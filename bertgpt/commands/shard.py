"""`bertgpt shard`: turn text or token parts into shards."""

from typing import Any

from bertgpt.commands.artefacts import show_summary
from bertgpt.config import ShardOptions
from bertgpt.console import Console


def run(options: ShardOptions) -> dict[str, Any]:
    """Do it."""
    from bertgpt.shards.build import shard

    return shard(options)


def show(result: dict[str, Any], console: Console) -> None:
    """Print what was made."""
    show_summary(result, console)
