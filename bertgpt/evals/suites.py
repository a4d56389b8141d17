"""The suites of `bertgpt eval`: load their items, and score a model on them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from bertgpt.config.options import EvalOptions
from bertgpt.data.sources.read import BadDataPolicy, read_documents
from bertgpt.data.sources.resolve import resolve_sources
from bertgpt.data.sources.source import ReadOptions
from bertgpt.data.sources.splits import input_splits
from bertgpt.evals.choices import blimp, lambada, multiple_choice, validate_cloze_rows
from bertgpt.evals.contamination import item_text
from bertgpt.evals.labels import check_labels_match, classification_head, score_classifiers, text_baselines
from bertgpt.evals.language import masked_accuracy, perplexity
from bertgpt.evals.probe import probe
from bertgpt.evals.results import EvalResult, ScoreWithInterval
from bertgpt.evals.tables import Row, read_records, round_robin, stratified_head
from bertgpt.evals.tasks import (
    TASKS,
    TINYWORLD_TASKS,
    LabeledDataset,
    load_file_task,
    load_task,
    load_tinyworld_task,
)
from bertgpt.evals.tinyworld import excess_nll, masked_word_accuracy
from bertgpt.hub.pretrained import PretrainedModel, not_a_language_model
from bertgpt.tinyworld import Document, World, examples
from bertgpt.utils.errors import BertGPTError
from bertgpt.utils.files import sha256_of

COUNTERPART_ITEMS, COUNTERPART_TRAIN, TINYWORLD_DOCUMENTS = 500, 2000, 200
TINYWORLD_EVAL_START = 1 << 39  # no training corpus reaches this document of tinyworld
Metadata = dict[str, str]  # a data file and its SHA-256, or a hub repository and its commit


@dataclass(frozen=True)
class HubSuite:
    """Where a published suite is on the hub, and the file in which it was published."""

    repository: str
    revision: str
    split: str
    file: str  # pattern
    subsets: bool = False  # its items are in several subsets


PUBLISHED = {
    "hellaswag": HubSuite("Rowan/hellaswag", "218ec52e09a7e7462a5400043bb9a69a41d06b76", "validation", "*val*.jsonl*"),
    "lambada": HubSuite(
        "EleutherAI/lambada_openai", "900124bf3b8235c6daf21033af9948b3f07346c4", "test", "*lambada*.jsonl*"
    ),
    "blimp": HubSuite(
        "nyu-mll/blimp", "877fba0801ffb7cbd8c39c1ff314a46f053f6036", "train", "*blimp*.jsonl*", subsets=True
    ),
}

COLUMNS: dict[str, tuple[set[str], ...]] = {  # of each item; several layouts are published
    "hellaswag": ({"activity_label", "ctx_a", "ctx_b", "endings", "label"}, {"ctx_full", "endings", "label"}),
    "lambada": ({"text"}, {"context", "continuation"}),
    "blimp": ({"sentence_good", "sentence_bad", "UID", "linguistics_term"},),
}

# ------------------------------------------------------------------------------------------------------ items


def load_items(suite: str, options: EvalOptions) -> tuple[list[Row], Metadata]:
    """The items of hellaswag, lambada, blimp or cloze."""
    limit = options.limit
    if suite == "cloze":
        if options.data is None:
            raise BertGPTError("BG203", "--data is missing", hint="jsonl with context, endings and label")
        rows = validate_cloze_rows(read_records(options.data)[:limit], options.data)
        return rows, {Path(options.data).name: sha256_of(Path(options.data))}
    published = PUBLISHED[suite]
    if options.data is None:
        revision = options.revision or published.revision
        rows, metadata = load_hub_items(published, revision, limit), {published.repository: revision}
    else:
        file = find_suite_file(suite, Path(options.data))
        rows, metadata = read_records(str(file)), {file.name: sha256_of(file)}
        rows = stratified_head(rows, "UID", limit) if published.subsets else rows[:limit]
    check_columns(suite, rows, options.data or published.repository)
    return [normalize_item(suite, row) for row in rows], metadata


def check_columns(suite: str, rows: Sequence[Row], where: str) -> None:
    """Refuse items without the columns of their suite."""
    alternatives = COLUMNS[suite]
    for number, row in enumerate(rows):
        if not any(columns <= row.keys() for columns in alternatives):
            missing = min((sorted(columns - row.keys()) for columns in alternatives), key=len)
            cause = f"row {number} has {', '.join(map(str, row))}"
            raise BertGPTError("BG212", f"{suite} needs {', '.join(missing)}", path=where, cause=cause)


def load_hub_items(published: HubSuite, revision: str, limit: int | None) -> list[Row]:
    """The items of a suite on the hub."""
    from bertgpt.data.sources.hub import stream_dataset, translate_datasets_errors

    name, subsets = published.repository, list[str | None]([None])
    with translate_datasets_errors(name):
        if published.subsets:
            from datasets import get_dataset_config_names

            subsets = get_dataset_config_names(name, revision=revision)
        streams = [stream_dataset(name, revision, subset, published.split) for subset in subsets[:limit]]
        return round_robin(streams, limit)


def find_suite_file(suite: str, data: Path) -> Path:
    """The published file of a suite: `data` itself, or in `data` or its folder of that name."""
    if data.is_file():
        return data
    folder = data / suite if (data / suite).is_dir() else data
    matches = sorted(folder.glob(PUBLISHED[suite].file)) if folder.is_dir() else []
    if not matches:
        raise BertGPTError("BG211", f"file not found: {PUBLISHED[suite].file}", path=str(folder))
    return matches[0]


def normalize_item(suite: str, row: Row) -> Row:
    """An item with the keys context, endings, label (hellaswag) or context, continuation (lambada)."""
    if suite == "hellaswag":
        if "ctx_full" in row:  # a copy without the parts, whose context is clean already
            context = row["ctx_full"]
        else:
            context = without_markup(f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}")
        if str(row["label"]) in ("", "-1"):
            raise BertGPTError("BG322", "some items have no label", hint="use the validation split")
        return {"context": context, "endings": list(map(without_markup, row["endings"])), "label": int(row["label"])}
    if suite == "lambada" and "continuation" not in row:
        context, _, last = row["text"].rpartition(" ")
        return {"context": context, "continuation": last}
    return row


def without_markup(text: str) -> str:
    """A context or ending of HellaSwag as lm-evaluation-harness scores it: without WikiHow's markup in brackets."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def load_labeled(suite: str, options: EvalOptions) -> LabeledDataset:
    """The labeled dataset of a task, of agnews, or of probe (a file)."""
    columns = (options.text_column, None, options.label_column)
    if suite != "probe":
        return load_task(suite, options.data, None, columns, "auto", options.limit, options.revision)
    if options.data is None:
        raise BertGPTError("BG203", "--data is missing", hint="a file of texts with labels")
    dataset = load_file_task(options.data, options.test_data, columns, "classification", options.limit)
    # Alphabetical class ids, as scikit-learn orders names: another order would change the last digits of the fit.
    return replace(dataset, classes=tuple(sorted(dataset.classes)))


def load_documents(options: EvalOptions) -> tuple[list[str], Metadata]:
    """Documents of files, or validation documents of tinyworld."""
    if options.data is None:
        raise BertGPTError("BG203", "--data is missing", hint="text files, or tinyworld")
    if options.data == "tinyworld":
        return [document.text for document in tinyworld_documents(World(0), options.limit)], {}
    documents: list[str] = []
    sources = resolve_sources([options.data])
    metadata = {source.name: source.sha256 for source in sources}
    for split in input_splits(sources, ReadOptions(text_column=options.text_column), None):
        for batch in read_documents(split, BadDataPolicy("stop")):
            documents += [document.decode() for document in batch.documents]
            if options.limit and len(documents) >= options.limit:
                return documents[: options.limit], metadata
    if not documents:
        raise BertGPTError("BG310", "no documents found", path=options.data)
    return documents, metadata


def tinyworld_documents(world: World, limit: int | None) -> list[Document]:
    """Documents of tinyworld that are in no training corpus."""
    return list(world.documents(TINYWORLD_EVAL_START, TINYWORLD_EVAL_START + (limit or TINYWORLD_DOCUMENTS)))


def contamination_texts(suite: str, options: EvalOptions) -> list[str]:
    """The texts of a suite that must not occur in training data; of labeled datasets, the test split."""
    if suite in ("agnews", "probe"):
        return load_labeled(suite, options).test.texts
    return [item_text(row) for row in load_items(suite, options)[0]]


# ----------------------------------------------------------------------------------------------------- suites


def evaluate_suite(pretrained: PretrainedModel, suite: str, options: EvalOptions) -> EvalResult:
    """Scores of a model on a suite."""
    is_probe = suite == "probe" or (suite == "agnews" and pretrained.head is None)
    is_task = suite in (*TASKS, *TINYWORLD_TASKS) and not is_probe
    if pretrained.head is not None and not (is_probe or is_task):
        raise not_a_language_model(pretrained.head)
    metadata: Metadata = {}
    if is_probe:
        dataset = load_labeled(suite, options)
        result, metadata = probe(pretrained, dataset, suite, options.full), dataset.metadata
    elif is_task:
        head = classification_head(pretrained, suite)
        dataset = load_labeled(suite, options)
        check_labels_match(head, dataset)
        result, metadata = score_classifiers(dataset, [pretrained], text_baselines(dataset), {}), dataset.metadata
    elif suite in ("lm", "mlm"):
        texts, metadata = load_documents(options)
        result = perplexity(pretrained, texts, options.stride) if suite == "lm" else masked_accuracy(pretrained, texts)
    elif suite == "tinyworld":
        result = evaluate_tinyworld(pretrained, options.limit)
    else:
        rows, metadata = load_items(suite, options)
        scorers = {"lambada": lambada, "blimp": blimp}
        result = scorers[suite](pretrained, rows) if suite in scorers else multiple_choice(pretrained, rows, suite)
    if pretrained.objective != "mlm" and not (is_probe or is_task) and suite != "mlm":
        result.definition += f"+prefix-{pretrained.prefix_token}"
    result.partial = options.limit is not None
    result.metadata["data"] = metadata
    return result


# -------------------------------------------------------------------------------------------------- tinyworld


def evaluate_tinyworld(pretrained: PretrainedModel, limit: int | None) -> EvalResult:
    """Distance to the true entropy or the Bayes optimum of tinyworld, and its counterparts of published suites."""
    world, items = World(0), limit or COUNTERPART_ITEMS
    documents = tinyworld_documents(world, limit)
    result = EvalResult("tinyworld", "tinyworld.seed0/1", len(documents), {})
    if pretrained.objective != "mlm":
        add_causal_scores(result, pretrained, world, documents, items)
    if pretrained.objective != "clm":
        add_masked_scores(result, pretrained, world, documents)
    add_minimal_pairs(result, pretrained, world, items)
    for task in TINYWORLD_TASKS:
        dataset = load_tinyworld_task(task, min(items * 4, COUNTERPART_TRAIN), items)
        probed = probe(pretrained, dataset, task, False)
        result.scores[task], result.items[task] = probed.scores["accuracy"], probed.items["correct"]
        for name in ("majority class", "TF-IDF baseline", "random init"):
            result.baselines[f"{task}, {name}"] = probed.baselines[name]
    return result


def add_causal_scores(
    result: EvalResult, pretrained: PretrainedModel, world: World, documents: Sequence[Document], items: int
) -> None:
    """Excess over the true entropy, story completion (as HellaSwag) and cloze (as LAMBADA)."""
    totals = excess_nll(pretrained, world, documents)
    result.scores["excess over the true entropy"] = ScoreWithInterval(totals["excess"])
    result.scores |= category_scores(totals, "excess")
    result.notes.append(f"excess: NLL above the true entropy, as a share of it, in {totals['documents']:,} documents")
    stories = multiple_choice(pretrained, tinyworld_rows(world, "endings", items), "story completion")
    result.scores["story completion"] = stories.scores["acc"]
    result.baselines["story completion, chance"] = stories.baselines["chance"]
    result.items["story completion"] = stories.items["acc"]
    rows = [{"context": row["context"], "continuation": row["target"]} for row in tinyworld_rows(world, "cloze", items)]
    words = lambada(pretrained, rows)
    result.scores["cloze"] = words.scores["acc"]
    result.baselines["cloze, word occurs in context"] = words.baselines["word occurs in context"]
    result.items["cloze"] = words.items["acc"]


def add_masked_scores(
    result: EvalResult, pretrained: PretrainedModel, world: World, documents: Sequence[Document]
) -> None:
    """Accuracy for masked words, alone and as a share of the Bayes optimum."""
    totals = masked_word_accuracy(pretrained, world, documents)
    result.scores["share of the Bayes optimum"] = ScoreWithInterval(totals["share"])
    result.scores["masked-word accuracy"] = ScoreWithInterval(totals["accuracy"])
    result.scores |= category_scores(totals, "share")
    result.baselines["masked-word accuracy, Bayes optimum"] = ScoreWithInterval(totals["bayes_accuracy"])


def category_scores(totals: dict[str, Any], name: str) -> dict[str, ScoreWithInterval]:
    """A score of each category of words."""
    values = {category: sums[name] for category, sums in totals["by_category"].items()}
    return {f"{name}, {each}": ScoreWithInterval(value) for each, value in values.items() if value is not None}


def add_minimal_pairs(result: EvalResult, pretrained: PretrainedModel, world: World, items: int) -> None:
    """Minimal pairs (as BLiMP), in all and of each category."""
    rows = [
        {"sentence_good": row["good"], "sentence_bad": row["bad"], "UID": row["category"],
         "linguistics_term": f"minimal pairs, {row['category']}"}
        for row in tinyworld_rows(world, "pairs", items)
    ]  # fmt: skip
    pairs = blimp(pretrained, rows)
    result.scores |= {("minimal pairs" if name == "accuracy" else name): score for name, score in pairs.scores.items()}
    result.baselines["minimal pairs, shorter sentence"] = pairs.baselines["shorter sentence"]


def tinyworld_rows(world: World, task: str, items: int) -> list[dict[str, Any]]:
    """The first items of the test split of a tinyworld task."""
    return list(islice(examples(world, task, "dev"), items))
