"""`bertgpt tokenize`: text to tokenized files."""

from typing import Any

from bertgpt.config.data_options import TokenizeOptions
from bertgpt.utils.console import Console
from bertgpt.utils.tables import show_summary


def run(options: TokenizeOptions) -> dict[str, Any]:
    """Inputs -> tokenize -> publish."""
    from bertgpt.data.build.prestart import prestart_workers

    prestart_workers(options)  # they start while the imports below are under way
    from bertgpt.data.build.inputs import TextInput, open_workdir
    from bertgpt.data.build.publish import publish_tokenized, summarize, summarize_task

    inputs = TextInput(options)
    if options.dry_run:
        return inputs.plan()
    with open_workdir(inputs) as workdir:
        if workdir.is_up_to_date(inputs.config):
            return summarize(inputs.out)
        workdir.check_space(inputs.disk_needed, inputs.disk_needed, inputs.config)
        tokenized = inputs.tokenize(workdir)
        if options.task_index is not None:
            return summarize_task(inputs, tokenized)
        publish_tokenized(workdir, inputs, tokenized)
    return summarize(inputs.out)


def show(result: dict[str, Any], console: Console) -> None:
    """Print the counts of the tokenized files."""
    show_summary(result, console)
