"""What worker processes begin with: the server that they are forked from imports this, and has it all.

$BERTGPT_TOKENIZER is the tokenizer of the job to come, if that is a file or folder.
"""

import gc
import os
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from bertgpt.data.build import shuffle
from bertgpt.data.build import tokenize_worker
from bertgpt.data.tokenizers.encoders import Encoder
from bertgpt.data.tokenizers.tokenizer import from_path

for name in ("pyarrow.parquet", "awkward"):
    with suppress(ImportError):
        import_module(name)

with suppress(BaseException):  # the main process meets it too, and says what it is
    source = os.environ.get("BERTGPT_TOKENIZER", "")
    if source and Path(source).exists():
        encoder = Encoder(from_path(Path(source)), print)
        assert encoder.backend
        assert encoder.tokenizer.reference
        tokenize_worker.ENCODERS[encoder.tokenizer.fingerprint] = encoder

gc.freeze()  # all this stays; a collection that looked through it would make every worker copy it

__all__ = ["gather", "parts"]
