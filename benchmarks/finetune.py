"""Fine-tuning on SST-2 beside the Trainer of `transformers`, padded to the longest of each batch: sentences a second.

    pip install accelerate
    python benchmarks/finetune.py --data FOLDER [--rounds 5] [--steps 40]

FOLDER holds glue/SST-2/train.tsv and tokenizers/bert-base-uncased. The same weights (a ModernBERT of d384 L4 H6),
batches of 32, AdamW, dropout 0.1, fp32 on both sides.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers
from generate import compare

import bertgpt
from bertgpt.config.presets import MODERNBERT, make_config
from bertgpt.config.training_options import FinetuneOptions
from bertgpt.data.tokenizers.load import load_tokenizer
from bertgpt.evals.tasks import load_task
from bertgpt.hub import pretrained
from bertgpt.hub.pretrained import PretrainedModel
from bertgpt.stages.finetune import FinetuneSetup, SeedRun
from bertgpt.training.init import init_model
from bertgpt.training.run_directory import RunDirectory

BATCH, TEXTS = 32, 20_000


def ours(run: Path, data: Path, folder: Path, steps: int) -> Callable[[], int]:
    """Steps of our trainer, as `bertgpt finetune` takes them."""
    given = {"task": "sst2", "data": str(data), "limit": TEXTS, "model": str(run), "out": str(folder)}
    tuning = FinetuneSetup(FinetuneOptions.model_validate(given | {"precision": "fp32", "device": "cpu"}))
    trainer = SeedRun(tuning, 0, random_init=False).build_trainer(RunDirectory(folder))
    ahead = trainer.batches()

    def go() -> int:
        for _ in range(steps):
            trainer.train_step(next(ahead))
            trainer.step += 1
        return steps * BATCH

    return go


def theirs(run: Path, data: Path, folder: Path, steps: int) -> Callable[[], int]:
    """Steps of their trainer, from the export of the same weights."""
    bertgpt.export(str(run), out=str(folder / "hf"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "hf")
    config = transformers.AutoConfig.from_pretrained(folder / "hf", num_labels=2, classifier_pooling="cls")
    config.classifier_dropout = 0.1
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "hf", config=config)
    part = load_task("sst2", str(data), None, ("", None, ""), "auto", TEXTS, None).train
    rows: list[dict[str, Any]] = [
        {"input_ids": ids, "labels": int(label == "positive")}
        for ids, label in zip(tokenizer(part.texts)["input_ids"], part.labels, strict=True)
    ]
    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "out"), per_device_train_batch_size=BATCH, max_steps=steps, use_cpu=True,
        save_strategy="no", logging_strategy="no", report_to=[], disable_tqdm=True,
    )  # fmt: skip
    collator = transformers.DataCollatorWithPadding(tokenizer)

    def go() -> int:
        trainer = transformers.Trainer(model, arguments, train_dataset=rows, data_collator=collator)  # type: ignore[arg-type]
        trainer.train()
        return steps * BATCH

    return go


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = load_tokenizer(options.data / "tokenizers" / "bert-base-uncased")
        model = init_model(make_config(384, 4, 6, tokenizer.max_id + 1, MODERNBERT, ffn_dim=576, dropout=0.1), 0)
        pretrained.save(PretrainedModel(model, tokenizer, "mlm", seq_len=128), folder / "run" / "final", "# random\n")
        sides = {
            "transformers' Trainer, padded": theirs(folder / "run", options.data, folder, options.steps),
            "bertgpt finetune": ours(folder / "run", options.data, folder / "tuned", options.steps),
        }
        ratios = [("bertgpt finetune", "transformers' Trainer, padded")]
        compare("SST-2, batches of 32, ModernBERT d384 L4 H6", "sentences", sides, ratios, options.rounds)


if __name__ == "__main__":
    main()
