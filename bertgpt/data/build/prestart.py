"""Start worker processes while the command is still importing its own modules."""

import os
from pathlib import Path

from bertgpt.config.data_options import TextOptions
from bertgpt.data.execution.tasks import start_forkserver, worker_count
from bertgpt.data.sources.resolve import local_bytes


def prestart_workers(options: TextOptions) -> None:
    """Start the fork server in the background, if it is certain that workers will be needed."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's own threads would spin for a while, beside the workers
    exists = options.out is not None and Path(options.out).exists() and not options.overwrite
    if not (exists or options.dry_run) and worker_count(options.workers, local_bytes(options.sources)) > 1:
        start_forkserver(options.tokenizer)
