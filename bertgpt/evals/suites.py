"""The suites of `bertgpt eval`: where their items come from, and who judges them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from bertgpt.config.corpora import CORPORA
from bertgpt.config.options import EvalOptions
from bertgpt.data.sources.read import BadDataPolicy, read_documents
from bertgpt.data.sources.resolve import resolve_sources
from bertgpt.data.sources.source import ReadOptions
from bertgpt.data.sources.splits import input_splits
from bertgpt.evals.choices import blimp, lambada, multiple_choice, validate_cloze_rows
from bertgpt.evals.contamination import item_text
from bertgpt.evals.labels import check_labels_match, score_classifiers, text_baselines
from bertgpt.evals.language import masked_accuracy, perplexity
from bertgpt.evals.probe import Parts, probe
from bertgpt.evals.results import EvalResult, ScoreWithInterval
from bertgpt.evals.tables import Row, label_column, read_agnews, read_records, round_robin, stratified_head, text_column
from bertgpt.evals.tasks import TASKS, TINYWORLD_TASKS, LabelledSplit, load_task, of_rows
from bertgpt.evals.tinyworld import excess_nll, masked_word_accuracy
from bertgpt.hub.pretrained import PretrainedModel, not_a_language_model
from bertgpt.tinyworld import World, examples
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import sha256_of

TWIN_ITEMS, TWIN_TRAIN, WORLD_DOCUMENTS = 500, 2000, 200
TINYWORLD_EVAL_START = 1 << 39  # documents of tinyworld from here on are in no corpus


@dataclass(frozen=True)
class HubSuite:
    """A set that others made: where the hub has it, at which commit, and its files as they were published."""

    repository: str
    revision: str
    splits: tuple[str, ...]
    files: tuple[str, ...]  # patterns, in the order of the splits
    subsets: bool = False  # whether it comes in parts, all of which are meant


PUBLISHED = {
    "agnews": HubSuite("fancyzhx/ag_news", CORPORA["agnews"].revision, ("train", "test"), ("train*.csv", "test.csv")),
    "hellaswag": HubSuite(
        "Rowan/hellaswag", "218ec52e09a7e7462a5400043bb9a69a41d06b76", ("validation",), ("*val*.jsonl*",)
    ),
    "lambada": HubSuite(
        "EleutherAI/lambada_openai", "900124bf3b8235c6daf21033af9948b3f07346c4", ("test",), ("*lambada*.jsonl*",)
    ),
    "blimp": HubSuite(
        "nyu-mll/blimp", "877fba0801ffb7cbd8c39c1ff314a46f053f6036", ("train",), ("*blimp*.jsonl*",), subsets=True
    ),
}


class SuiteData:
    """The items of a suite, and what is known of their files."""

    def __init__(self, options: EvalOptions, suite: str) -> None:
        self.options, self.suite = options, suite
        self.facts: dict[str, str] = {}

    def files(self) -> list[Path]:
        """The files of a published set: those in --data, or in its folder of that name."""
        published = PUBLISHED[self.suite]
        assert self.options.data is not None
        given = Path(self.options.data)
        if given.is_file() and len(published.files) == 1:
            found = [given]
        else:
            folder = given / self.suite if (given / self.suite).is_dir() else given
            found = []
            for pattern in published.files:
                there = sorted(folder.glob(pattern)) if folder.is_dir() else []
                if not there:
                    raise BertGPTError("BG211", f"there is no {pattern} here", path=str(folder))
                found.append(there[0])
        self.facts |= {file.name: sha256_of(file) for file in found}
        return found

    def hub(self) -> list[list[Row]]:
        """The splits of a published set, from the hub."""
        from bertgpt.data.sources.hub import stream_dataset, translate_datasets_errors

        published, most = PUBLISHED[self.suite], self.options.limit
        name, commit = published.repository, self.options.revision or published.revision
        self.facts[name] = commit
        subsets: list[str | None] = [None]
        if published.subsets:
            from datasets import get_dataset_config_names

            with translate_datasets_errors(name):
                subsets = get_dataset_config_names(name, revision=commit)
        found = []
        for split in published.splits:
            with translate_datasets_errors(name):
                found.append(
                    round_robin([stream_dataset(name, commit, subset, split) for subset in subsets[:most]], most)
                )
        return found

    def rows(self) -> list[Row]:
        """The items of a set of one file, as its suite wants them."""
        if self.options.data is None:
            return [normalize_item(self.suite, row) for row in self.hub()[0]]
        rows, most = read_records(str(self.files()[0])), self.options.limit
        rows = stratified_head(rows, "UID", most) if PUBLISHED[self.suite].subsets else rows[:most]
        return [normalize_item(self.suite, row) for row in rows]

    def texts_of_items(self) -> list[str]:
        """What of a suite must not be in a training text; of labelled ones, the test."""
        if self.suite in ("agnews", "probe"):
            return self.parts()[1].texts
        if self.suite == "cloze":
            assert self.options.data is not None
            return [item_text(row) for row in validate_cloze_rows(read_records(self.options.data), self.options.data)]
        return [item_text(row) for row in self.rows()]

    def parts(self) -> Parts:
        """Texts with classes: AG News, or a file of one's own, of which a fifth is the test unless one is given."""
        options = self.options
        if self.suite == "agnews":
            parts = self.hub() if options.data is None else [read_agnews(file) for file in self.files()]
            train, test = (of_rows(part[: options.limit]) for part in parts)
            return train, test
        if options.data is None:
            raise BertGPTError("BG203", "--data is missing", hint="a file of texts with labels")
        columns = (options.text_column, options.label_column)
        parts = [read_records(name) for name in (options.data, options.test_data) if name is not None]
        self.facts |= {Path(n).name: sha256_of(Path(n)) for n in (options.data, options.test_data) if n is not None}
        if len(parts) == 1:
            parts = [[row for i, row in enumerate(parts[0]) if (i % 5 == 4) == test] for test in (False, True)]
        parts = [part[: options.limit] for part in parts]
        train, test = (
            LabelledSplit(
                text_column(part, columns[0], options.data), None, label_column(part, columns[1], options.data)
            )
            for part in parts
        )
        return train, test

    def texts(self) -> list[str]:
        """Documents of files, or held-out ones of tinyworld."""
        if self.options.data is None:
            raise BertGPTError("BG203", "--data is missing", hint="text files, or tinyworld")
        if self.options.data == "tinyworld":
            most = self.options.limit or WORLD_DOCUMENTS
            return [document.text for document in World(0).documents(TINYWORLD_EVAL_START, TINYWORLD_EVAL_START + most)]
        reading = ReadOptions(text_column=self.options.text_column)
        found: list[str] = []
        sources = resolve_sources([self.options.data])
        self.facts |= {source.name: source.sha256 for source in sources}
        for piece in input_splits(sources, reading, None):
            for batch in read_documents(piece, BadDataPolicy("stop")):
                found += [document.decode() for document in batch.documents]
                if self.options.limit and len(found) >= self.options.limit:
                    return found[: self.options.limit]
        if not found:
            raise BertGPTError("BG310", "there is no text here", path=self.options.data)
        return found


def normalize_item(suite: str, row: Row) -> Row:
    """An item under our names."""
    if suite == "hellaswag":
        context = row["ctx_full"] if "ctx_full" in row else f"{row['activity_label']}: {preprocessed(row)}"
        if str(row["label"]) in ("", "-1"):
            raise BertGPTError("BG322", "some items have no label", hint="take the validation split")
        return {"context": context, "endings": list(row["endings"]), "label": int(row["label"])}
    if suite == "lambada" and "continuation" not in row:
        context, _, last = row["text"].rpartition(" ")
        return {"context": context, "continuation": last}
    return row


def preprocessed(row: Row) -> str:
    """HellaSwag's context as everybody scores it: brackets of WikiHow's markup taken out."""
    text = f"{row['ctx_a']} {row['ctx_b'].capitalize()}".strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


# ----------------------------------------------------------------------------------------------------- suites


def evaluate_suite(kept: PretrainedModel, suite: str, options: EvalOptions) -> EvalResult:
    """What a suite finds of a model."""
    if suite in (*TASKS, *TINYWORLD_TASKS) and (suite != "agnews" or kept.head is not None):
        return evaluate_task(kept, suite, options)
    if kept.head is not None and suite not in ("agnews", "probe"):
        raise not_a_language_model(kept.head)
    items = SuiteData(options, suite)
    if suite in ("agnews", "probe"):
        found = probe(kept, items.parts(), suite, options.full)
    elif suite == "lm":
        found = perplexity(kept, items.texts(), options.stride)
    elif suite == "mlm":
        found = masked_accuracy(kept, items.texts())
    elif suite == "lambada":
        found = lambada(kept, items.rows())
    elif suite == "blimp":
        found = blimp(kept, items.rows())
    elif suite == "hellaswag":
        found = multiple_choice(kept, items.rows(), suite)
    elif suite == "cloze":
        if options.data is None:
            raise BertGPTError("BG203", "--data is missing", hint="jsonl with context, endings and label")
        items.facts[Path(options.data).name] = sha256_of(Path(options.data))
        found = multiple_choice(
            kept, validate_cloze_rows(read_records(options.data)[: options.limit], options.data), suite
        )
    else:
        found = evaluate_tinyworld(kept, options)
    found.partial = options.limit is not None
    found.metadata |= {"data": items.facts}
    return found


def evaluate_task(kept: PretrainedModel, suite: str, options: EvalOptions) -> EvalResult:
    """What a fine-tuned model is worth."""
    columns = (options.text_column, options.pair_column, options.label_column)
    task = load_task(suite, options.data, options.test_data, columns, "auto", options.limit, options.revision)
    check_labels_match(kept, task)
    found = score_classifiers(task, [kept], text_baselines(task), {})
    found.partial = options.limit is not None
    return found


def evaluate_tinyworld(kept: PretrainedModel, options: EvalOptions) -> EvalResult:
    """The distance to what can be known of the world, and the twins of the other suites."""
    world, most = World(0), options.limit or TWIN_ITEMS
    documents = list(world.documents(TINYWORLD_EVAL_START, TINYWORLD_EVAL_START + (options.limit or WORLD_DOCUMENTS)))
    scores: dict[str, ScoreWithInterval] = {}
    baselines: dict[str, ScoreWithInterval] = {}
    items: dict[str, Sequence[Any]] = {}
    notes = []
    if kept.objective != "mlm":
        told = excess_nll(kept, world, documents)
        scores |= {"excess": ScoreWithInterval(told["excess"])}
        by_mechanism = {m: sums["excess"] for m, sums in told["by_mechanism"].items()}
        scores |= {f"excess of {m}": ScoreWithInterval(value) for m, value in by_mechanism.items() if value is not None}
        notes.append(f"excess: nats above the true entropy, as a share of it, in {told['documents']:,} documents")
        rows = list(islice(examples(world, "endings", "dev"), most))
        shown = [{"context": row["context"], "endings": row["endings"], "label": row["label"]} for row in rows]
        twin = multiple_choice(kept, shown, "endings")
        scores["endings"], baselines["endings, chance"] = twin.scores["acc"], twin.baselines["chance"]
        items["endings"] = twin.items["acc"]
        rows = list(islice(examples(world, "cloze", "dev"), most))
        last = lambada(kept, [{"context": row["context"], "continuation": row["target"]} for row in rows])
        scores["cloze"] = last.scores["acc"]
        baselines["cloze, it occurs before"] = last.baselines["it occurs before"]
        items["cloze"] = last.items["acc"]
    if kept.objective != "clm":
        told = masked_word_accuracy(kept, world, documents)
        scores |= {
            "share of the oracle": ScoreWithInterval(told["share"]),
            "accuracy": ScoreWithInterval(told["accuracy"]),
        }
        scores |= {
            f"share in {m}": ScoreWithInterval(sums["share"])
            for m, sums in told["by_mechanism"].items()
            if sums["share"] is not None
        }
        baselines["accuracy, the oracle"] = ScoreWithInterval(told["oracle_accuracy"])
    rows = list(islice(examples(world, "pairs", "dev"), most))
    shown = [{"sentence_good": row["good"], "sentence_bad": row["bad"], "UID": row["mechanism"],
              "linguistics_term": f"pairs of {row['mechanism']}"} for row in rows]  # fmt: skip
    twin = blimp(kept, shown)
    scores |= {("pairs" if name == "accuracy" else name): score for name, score in twin.scores.items()}
    baselines["pairs, the shorter"] = twin.baselines["the shorter"]
    for task in ("topic", "sentiment", "acceptability"):
        sizes = {"train": min(most * 4, TWIN_TRAIN), "dev": most}
        train, test = (of_rows(list(islice(examples(world, task, split), size))) for split, size in sizes.items())
        twin = probe(kept, (train, test), task, False)
        scores[task], items[task] = twin.scores["accuracy"], twin.items["correct"]
        baselines |= {f"{task}, {name}": twin.baselines[name] for name in ("majority", "tf-idf", "random weights")}
    return EvalResult("tinyworld", "tinyworld.seed0/1", len(documents), scores, baselines, items, notes=notes)
