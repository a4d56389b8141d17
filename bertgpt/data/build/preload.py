"""Modules and tokenizer that the fork server loads, so that every worker forked from it has them.

$BERTGPT_TOKENIZER is the tokenizer that the workers will need, if it is a file or folder.
"""

import gc
import os
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from bertgpt.data.build import shard_worker, tokenize_worker
from bertgpt.data.tokenizers.encoders import Encoder
from bertgpt.data.tokenizers.load import from_path

for name in ("pyarrow.parquet", "awkward"):
    with suppress(ImportError):
        import_module(name)

with suppress(BaseException):  # the main process meets the same error, and reports it
    source = os.environ.get("BERTGPT_TOKENIZER", "")
    if source and Path(source).exists():
        encoder = Encoder(from_path(Path(source)), print)
        assert encoder.backend
        assert encoder.tokenizer.reference
        tokenize_worker.ENCODERS[encoder.tokenizer.fingerprint] = encoder

gc.freeze()  # all of this lives on; a collection that walks through it would make every worker copy its pages

__all__ = ["shard_worker", "tokenize_worker"]
