"""Evaluation items that occur in training data."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import bertgpt
from tests.conftest import Outcome

Run = Callable[..., Outcome]
ITEMS = [
    {"context": f"Number {n} of the items: a man with {n} hats climbs onto the roof of house {n * 7}, and then",
     "endings": [f"he counts all {n} of the hats again.", "he leaves."], "label": n % 2}
    for n in range(60)
]  # fmt: skip


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("items") / "items.jsonl"
    file.write_text("".join(json.dumps(item) + "\n" for item in [*ITEMS, {**ITEMS[0], "context": "short", "label": 1}]))
    return file


def shards(folder: Path, planted: int) -> str:
    """Shards of text that contains some of the items, cased and spaced differently, within other text."""
    texts = [f"Document {n} tells of {n * n} things that nobody has asked about." for n in range(300)]
    for n in range(planted):
        item = ITEMS[3 * n]
        text = f"{item['context']} {item['endings'][item['label']]}".upper().replace(" ", "  ")
        texts[7 * n] += f" And so on. {text} The end."
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    out = str(folder / "shards")
    bertgpt.shard(str(folder / "texts.jsonl"), out=out, train_tokenizer="bpe", vocab_size=400, val_fraction=0.0)
    return out


@pytest.mark.parametrize("planted", [20, 0])
def test_contaminated_items_are_found(planted: int, items: Path, run: Run, tmp_path: Path) -> None:
    folder = shards(tmp_path, planted)
    done = run("inspect", folder, "--contamination", "cloze", "--data", str(items), "--json")
    result = json.loads(done.out)["result"]
    assert result["indices"] == [3 * n for n in range(planted)]
    assert (result["contaminated"], result["items"], result["too_short"]) == (planted, 61, 1)
    printed = run("inspect", folder, "--contamination", "cloze", "--data", str(items)).out
    assert f"{planted} of 61 items" in printed
    assert run("inspect", folder, "--contamination", "cloze").code == 2
