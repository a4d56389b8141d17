"""What worker processes begin with: the server that they are forked from imports this, and has it all.

$BERTGPT_TOKENIZER is the tokenizer of the job to come, if that is a file or folder.
"""

import os
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from bertgpt.errors import BertGPTError
from bertgpt.shards import gather, parts
from bertgpt.tokens.encoders import Encoder
from bertgpt.tokens.tokenizer import Tokenizer

for name in ("pyarrow.parquet", "awkward"):
    with suppress(ImportError):
        import_module(name)

with suppress(BertGPTError):  # which the main process meets too
    source = os.environ.get("BERTGPT_TOKENIZER", "")
    if source and Path(source).exists():
        encoder = Encoder(Tokenizer.load(source), print)
        assert encoder.backend
        parts.at_hand[encoder.tokenizer.identity] = encoder

__all__ = ["gather", "parts"]
