"""The full-size recipes: every stage of each runs, on a small hub and tiny data, in seconds."""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from bertgpt.config.corpora import CORPORA
from bertgpt.config.presets import PRESETS
from bertgpt.evals.suites import PUBLISHED
from bertgpt.evals.tasks import TASKS
from bertgpt.model import Transformer
from bertgpt.tinyworld import World
from bertgpt.training.device import PEAK_BF16_FLOPS
from tests.evals.test_published import blimp_of, parquet
from tests.fixtures.hub_server import Dataset, Hub, serve_hub

ROOT = Path(__file__).parents[1]
RECIPES = sorted(file.parent.name for file in ROOT.glob("pipelines/*/dvc.yaml"))
LITTLE: dict[str, dict[str, Any]] = {
    "shard": {"vocab-size": 400, "shard-tokens": "20k", "limit-docs": 200, "val-fraction": 0.1},
    "mask": {"seq-len": 32},
    "pretrain": {
        "tokens-per-step": 128, "max-steps": 2, "warmup": 1, "eval-every": 1, "save-every": 1, "log-every": 1,
        "eval-tokens": 200, "eval-items": 10,
    },
    "finetune": {"max-steps": 1, "seeds": 1, "limit": 60, "random-baseline": False},
    "eval": {"limit": 40},
}  # fmt: skip
SMALLER = {"gpt2": "tiny-gpt", "modern-gpt-small": "modern-gpt-tiny", "modern-bert-small": "modern-bert-tiny"}


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    """Small copies of all that the recipes read."""
    texts = [document.text for document in World(1).documents(0, 300)]
    labels = [i % 2 for i in range(60)]
    hellaswag = {"activity_label": ["Roof"] * 4, "ctx_a": ["A man sits."] * 4, "ctx_b": ["he"] * 4,
                 "endings": [["a", "b", "c", "d"]] * 4, "label": list("0123")}  # fmt: skip
    sets = {
        PUBLISHED["hellaswag"].repository: {"data/validation-00000-of-00001.parquet": parquet(**hellaswag)},
        PUBLISHED["lambada"].repository: {"data/test-00000-of-00001.parquet": parquet(text=texts[:8])},
        PUBLISHED["blimp"].repository: blimp_of(["one", "two"]),
        TASKS["agnews"].repository: {
            f"data/{split}-00000-of-00001.parquet": parquet(text=texts[first : first + 60], label=labels)
            for split, first in (("train", 0), ("test", 60))
        },
        TASKS["imdb"].repository: {
            f"plain_text/{split}-00000-of-00001.parquet": parquet(text=texts[first : first + 60], label=labels)
            for split, first in (("train", 0), ("test", 60))
        },
        TASKS["sst2"].repository: glue(texts, labels, ["sst2", "cola"]),
        CORPORA["fineweb"].repository: {"sample/10BT/000_00000.parquet": parquet(text=texts)},
        CORPORA["wikitext103"].repository: {
            f"wikitext-103-raw-v1/{split}-00000-of-00001.parquet": parquet(
                text=[line for i, text in enumerate(some) for line in (f" = Page {i} = \n", f" {text} \n")]
            )
            for split, some in (("train", texts), ("validation", texts[:9]), ("test", texts[:9]))
        },
    }
    commits = {p.repository: p.revision for p in (*PUBLISHED.values(), *TASKS.values(), *CORPORA.values())}
    with serve_hub() as served:
        for repository, files in sets.items():
            served.datasets[repository] = Dataset(files, commit=commits[repository])
        yield served


def glue(texts: list[str], labels: list[int], names: list[str]) -> dict[str, bytes]:
    """Some of GLUE's tasks, each a subset of one repository."""
    told, files = "", {}
    for name in names:
        told += f"- config_name: {name}\n  data_files:\n"
        for split, first in (("train", 0), ("validation", 60)):
            told += f"  - split: {split}\n    path: {name}/{split}-*\n"
            columns = {"sentence": texts[first : first + 60], "label": labels}
            files[f"{name}/{split}-00000-of-00001.parquet"] = parquet(**columns)
    return files | {"README.md": f"---\nconfigs:\n{told}---\n".encode()}


def small(name: str, folder: Path) -> Path:
    """A copy of a recipe with small parameters."""
    recipe = folder / "pipelines" / name
    left = shutil.ignore_patterns("cache", "tmp", "config.local", "data", "runs", "results", "hf")
    shutil.copytree(ROOT / "pipelines" / name, recipe, ignore=left)
    params = yaml.safe_load((recipe / "params.yaml").read_text())
    for section, less in LITTLE.items():
        if section in params:
            params[section] |= less
    if params["shard"].pop("tokenizer", "gpt2") == "gpt2" and "train-tokenizer" not in params["shard"]:
        params["shard"]["train-tokenizer"] = "bpe"  # GPT-2's needs a network
    params["shard"].pop("limit-tokens", None)
    params.get("finetune", {}).pop("epochs", None)
    pretrain = params["pretrain"]
    if "preset" in pretrain:
        pretrain["preset"] = SMALLER.get(pretrain["preset"], "tiny-bert")
    if "seq-len" in pretrain:
        pretrain["seq-len"] = 32
    if "probe-every" in pretrain:
        pretrain["probe-every"] = 1
    params.get("eval", {}).pop("precision", None)
    params.get("eval", {}).pop("full", None)
    (recipe / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    stages = (recipe / "dvc.yaml").read_text()
    for large, little in SMALLER.items():
        stages = stages.replace(f"--preset {large}", f"--preset {little}")
    (recipe / "dvc.yaml").write_text(stages)
    if name == "bert-base-scratch":
        texts = (document.text for document in World(1).documents(0, 300))
        (recipe / "data.txt").write_text("\n\n".join(texts))
    return recipe


def stages_of(recipe: Path) -> list[dict[str, Any]]:
    """The stages of a recipe as DVC resolves them, in order."""
    from dvc.repo import Repo

    subprocess.run(["git", "init", "-q"], cwd=recipe.parents[1], check=True)
    found = []
    for stage in Repo(str(recipe)).index.stages:
        words = str(stage.cmd).split()
        found.append(
            {
                "words": [*words[words.index("bertgpt") + 1 :], *(["--device", "cpu"] if "pretrain" in words else [])],
                "deps": [dep.def_path for dep in stage.deps],
                "outs": [out.def_path for out in stage.outs],
            }
        )
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_recipe_runs(name: str, hub: Hub, tmp_path: Path, process: Callable[..., Any]) -> None:
    recipe = small(name, tmp_path)
    stages = stages_of(recipe)
    assert stages[-1]["words"][0] == "report"
    for stage in stages:
        assert all((recipe / path).exists() for path in stage["deps"]), stage
        done = process(*stage["words"], cwd=recipe, env=hub.environment(tmp_path))
        assert done.code == 0, (stage, done.err[-3000:])
        assert all((recipe / path).exists() for path in stage["outs"]), stage
    assert (recipe / "report.html").exists()


@pytest.mark.parametrize("name", RECIPES)
def test_cost_of_a_recipe_is_what_its_page_says(name: str) -> None:
    """From model FLOPs and the published peak of a device."""
    recipe = ROOT / "pipelines" / name
    params = yaml.safe_load((recipe / "params.yaml").read_text())
    page = (recipe / "README.md").read_text()
    stages = (recipe / "dvc.yaml").read_text()
    presets = (
        [params["pretrain"]["preset"]] if "preset" in params["pretrain"] else re.findall(r"--preset (\S+)", stages)
    )
    tokens = params["pretrain"]["tokens-per-step"] * params["pretrain"]["max-steps"]
    length = params["pretrain"].get("seq-len") or params["mask"]["seq-len"]
    flops = 0.0
    for i, preset in enumerate(presets):
        with torch.device("meta"):
            model = Transformer(PRESETS[preset].model)
        masked = model.flops_per_token(length, params.get("mask", {}).get("mlm-probability", 1.0))
        causal = model.flops_per_token(length)
        hybrid = i == 2
        flops += tokens * ((masked + causal) / 2 if hybrid else causal if "gpt" in preset else masked)
    hours = {device: flops / (PEAK_BF16_FLOPS[device] * 0.4) / 3600 for device in ("H100", "A100")}
    assert f"| {tokens / 1e9:.2f} B | {flops:.1e} | {hours['H100']:.2f} | {hours['A100']:.2f} |" in page
