"""`bertgpt mask`: shards to a mask plan, the rows of masked-language-model training."""

from typing import Any

from bertgpt.config.data_options import MaskOptions
from bertgpt.utils.console import Console
from bertgpt.utils.tables import format_counts, format_number, show_dry_run


def run(options: MaskOptions) -> dict[str, Any]:
    """Shards -> plan rows -> draw static masks -> publish."""
    from bertgpt.data.build.mask_plan import (
        MaskInput,
        draw_static_masks,
        plan_rows,
        publish_mask_plan,
        summarize_mask_plan,
    )
    from bertgpt.data.execution.workdir import WorkDirectory

    inputs = MaskInput(options)
    if options.dry_run:
        return inputs.plan()
    with WorkDirectory(inputs.out, options.overwrite) as workdir:
        if workdir.is_up_to_date(inputs.config):
            return summarize_mask_plan(inputs.out)
        workdir.check_space(inputs.disk_needed, inputs.disk_needed, inputs.config)
        workdir.start_pool(options.workers, 2 * inputs.size)
        spans = plan_rows(inputs, workdir)
        masks = draw_static_masks(inputs, workdir, spans)
        publish_mask_plan(workdir, inputs, spans, masks)
    return summarize_mask_plan(inputs.out)


def show(result: dict[str, Any], console: Console) -> None:
    """Print rows and padding of each split."""
    if "splits" not in result:
        show_dry_run(result, console)
        return
    console.heading(f"mask plan in {result['path']}: rows of {result['seq_len']}, vocab size {result['vocab_size']:,}")
    rows = []
    for name, split in result["splits"].items():
        padding = split["padding"] / max(split["rows"] * result["seq_len"], 1)
        rows.append((name, *(format_number(split[key]) for key in ("files", "rows", "tokens")), f"{padding:.2%}"))
    console.table(("split", "files", "rows", "tokens", "padding"), rows)
    console.text(format_counts(result["counts"], leave_out=("rows", "tokens")))
