"""Named corpora. To add one, add an entry: it becomes a SOURCE, a preset, and a line of `shard --list`.

A revision is a commit of the repository on the Hub, so that a name always stands for the same bytes. Sizes are rounded
and only used for planning; the counts of what was read are in the manifest.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from bertgpt.utils.errors import BertGPTError, did_you_mean, short_repr


@dataclass(frozen=True)
class Corpus:
    """Location of a corpus, how to read it, and the preset for sharding it."""

    description: str
    license: str
    documents: int
    text_bytes: int
    files: Mapping[str, str]  # train, val, test: a glob pattern in the repository, or a URL. Official splits are kept
    repository: str = ""  # on the Hub
    revision: str = ""
    subsets: Mapping[str, str] = field(default_factory=dict)  # name: glob pattern, in which {} stands for the name
    document_start: str = ""  # where rows are lines: regular expression of a document's first row
    rows_per_document: int = 1  # where rows are sentences without document boundaries: how many make a document
    joiner: str = ""  # put between the rows of a document
    shard_tokens: int = 100_000_000
    tokenizer: str = "gpt2"

    def patterns(self, subset: str | None) -> Mapping[str, str]:
        """The files of each split; raises BertGPTError if there is no such subset."""
        if subset is None:
            return self.files
        for name, pattern in self.subsets.items():
            if fnmatchcase(subset, name):
                return {"train": pattern.format(subset)}
        cause = f"the subsets are {', '.join(self.subsets)}" if self.subsets else "this corpus has no subsets"
        hint = did_you_mean(subset, self.subsets)
        raise BertGPTError("BG211", f"no such subset: {short_repr(subset)}", cause=cause, hint=hint)


FINEWEB_SUBSETS = {
    "sample-10BT": "sample/10BT/*.parquet",
    "sample-100BT": "sample/100BT/*.parquet",
    "sample-350BT": "sample/350BT/*.parquet",
    "default": "data/*/*.parquet",
    "CC-MAIN-*": "data/{}/*.parquet",
}

CORPORA: dict[str, Corpus] = {
    "fineweb": Corpus(
        description="FineWeb-Edu: educational web pages, a sample of 10 B tokens",
        license="ODC-By 1.0",
        documents=9_672_101,
        text_bytes=47_000_000_000,
        repository="HuggingFaceFW/fineweb-edu",
        revision="87f09149ef4734204d70ed1d046ddc9ca3f2b8f9",
        files={"train": FINEWEB_SUBSETS["sample-10BT"]},
        subsets=FINEWEB_SUBSETS,
        shard_tokens=10_000_000,
    ),
    "fineweb-raw": Corpus(
        description="FineWeb: web pages, a sample of 10 B tokens",
        license="ODC-By 1.0",
        documents=14_868_862,
        text_bytes=46_000_000_000,
        repository="HuggingFaceFW/fineweb",
        revision="9bb295ddab0e05d785b879661af7260fed5140fc",
        files={"train": FINEWEB_SUBSETS["sample-10BT"]},
        subsets=FINEWEB_SUBSETS,
        shard_tokens=10_000_000,
    ),
    "wikitext103": Corpus(
        description="WikiText-103: good and featured articles of Wikipedia",
        license="CC BY-SA 3.0, GFDL",
        documents=28_600,
        text_bytes=542_000_000,
        repository="Salesforce/wikitext",
        revision="b08601e04326c79dfdd32d625aee71d232d685c3",
        files={
            "train": "wikitext-103-raw-v1/train-*.parquet",
            "val": "wikitext-103-raw-v1/validation-*.parquet",
            "test": "wikitext-103-raw-v1/test-*.parquet",
        },
        document_start=r" = [^=].* = \n",
    ),
    "wikitext2": Corpus(
        description="WikiText-2: a small part of WikiText-103",
        license="CC BY-SA 3.0, GFDL",
        documents=720,
        text_bytes=13_000_000,
        repository="Salesforce/wikitext",
        revision="b08601e04326c79dfdd32d625aee71d232d685c3",
        files={
            "train": "wikitext-2-raw-v1/train-*.parquet",
            "val": "wikitext-2-raw-v1/validation-*.parquet",
            "test": "wikitext-2-raw-v1/test-*.parquet",
        },
        document_start=r" = [^=].* = \n",
    ),
    "openwebtext": Corpus(
        description="OpenWebText: web pages linked from Reddit, like GPT-2's training data",
        license="CC0 (the packaging)",
        documents=8_013_769,
        text_bytes=39_800_000_000,
        repository="Skylion007/openwebtext",
        revision="79d93d786212f7344586290adb811d4ae6a1762c",
        files={"train": "plain_text/train-*.parquet"},
    ),
    "tinystories": Corpus(
        description="TinyStories: short stories for small children, written by GPT-3.5 and GPT-4",
        license="CDLA-Sharing 1.0",
        documents=2_141_709,
        text_bytes=1_920_000_000,
        repository="roneneldan/TinyStories",
        revision="f54c09fd23315a6f9c86f9dc80f725de7d8f9c64",
        files={"train": "data/train-*.parquet", "val": "data/validation-*.parquet"},
    ),
    "wikipedia": Corpus(
        description="English Wikipedia, November 2023",
        license="CC BY-SA 3.0, GFDL",
        documents=6_407_814,
        text_bytes=20_000_000_000,
        repository="wikimedia/wikipedia",
        revision="b04c8d1ceb2f5cd4588862100d08de323dccfbaa",
        files={"train": "20231101.en/train-*.parquet"},
        subsets={"20231101.*": "{}/train-*.parquet"},
    ),
    "bookcorpus": Corpus(
        description="BookCorpus: unpublished novels, split into sentences, as in BERT's training data",
        license="unknown",
        documents=74_004_228 // 64,
        text_bytes=4_850_000_000,
        repository="bookcorpus/bookcorpus",
        revision="refs/convert/parquet",  # the Hub's conversion; its commit is in the manifest
        files={"train": "plain_text/train/*.parquet"},
        rows_per_document=64,
        joiner="\n",
    ),
    "tinyshakespeare": Corpus(
        description="Tiny Shakespeare: plays, 1 MB",
        license="public domain",
        documents=7_222,
        text_bytes=1_100_000,
        files={
            "train": "https://raw.githubusercontent.com/karpathy/char-rnn/"
            "6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/input.txt"
        },
    ),
    "agnews": Corpus(
        description="AG News: titles and descriptions of news stories, without their labels",
        license="non-commercial research",
        documents=127_600,
        text_bytes=30_000_000,
        repository="fancyzhx/ag_news",
        revision="eb185aade064a813bc0b7f42de02595523103ca4",
        files={"train": "data/train-*.parquet", "test": "data/test-*.parquet"},
    ),
}
