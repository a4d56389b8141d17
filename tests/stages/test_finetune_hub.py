"""Tasks from the hub: the real client against a small hub on loopback, at pinned commits."""

import json
from pathlib import Path
from typing import Any

import pytest

from bertgpt.evals.tasks import TASKS
from tests.evals.test_published import parquet
from tests.fixtures.finetuning import QUICK, labeled_texts
from tests.fixtures.hub_server import Dataset, serve_hub
from tests.fixtures.training import flags

TEXTS, LABELS = [text for text, _ in labeled_texts(40)], [int(label == "good") for _, label in labeled_texts(40)]
COLUMNS: dict[str, dict[str, list[Any]]] = {
    "sst2": {"sentence": TEXTS, "label": LABELS},
    "mnli": {"premise": TEXTS, "hypothesis": TEXTS[::-1], "label": [label + 1 for label in LABELS]},
    "stsb": {"sentence1": TEXTS, "sentence2": TEXTS, "label": [4.5 * label for label in LABELS]},
}


@pytest.mark.parametrize("name", COLUMNS)
def test_task_from_the_hub(name: str, bases: dict[str, Path], process: Any, tmp_path: Path) -> None:
    task = TASKS[name]
    subsets = f"- config_name: {task.subset}\n  data_files:\n" + "".join(
        f"  - split: {split}\n    path: {task.subset}/{split}-*\n" for split in ("train", task.test_split)
    )
    files = {"README.md": f"---\nconfigs:\n{subsets}---\n".encode()} | {
        f"{task.subset}/{split}-00000-of-00001.parquet": parquet(**COLUMNS[name])
        for split in ("train", task.test_split)
    }
    files[f"{task.subset}/train-00000-of-00001.parquet"] = parquet(
        **{key: [f"{v} again" if isinstance(v, str) else v for v in values] for key, values in COLUMNS[name].items()}
    )
    options = {k: v for k, v in QUICK.items() if k != "random_baseline"} | {"max_steps": 2, "eval_every": 1}
    with serve_hub() as hub:
        hub.datasets[task.repository] = Dataset(files, commit=task.revision)
        argv = ["finetune", name, "--model", str(bases["bert"]), "--out", str(tmp_path / "x"), "--no-random-baseline"]
        done = process(*argv, *flags(options), "--json", env=hub.environment(tmp_path), cwd=tmp_path)
    assert done.code == 0, done.err
    result = json.loads(done.out)["result"]
    assert result["n"] == 40
    assert result["metadata"]["data"] == {task.repository: task.revision}
    assert next(iter(result["scores"])) == task.metrics[0]
