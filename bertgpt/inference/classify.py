"""Text classification and regression with a fine-tuned model."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from bertgpt.data.loading.classification import EncodedExample, pack_batch
from bertgpt.data.tokenizers.detokenize import encode_checked
from bertgpt.hub.pretrained import PretrainedModel
from bertgpt.inference.batching import batches_by_length
from bertgpt.model import SequenceClassifier
from bertgpt.training.device import to_device, to_tensors
from bertgpt.utils import console
from bertgpt.utils.errors import BertGPTError


def encode_examples(
    pretrained: PretrainedModel, texts: Sequence[str], second_texts: Sequence[str] | None, max_length: int
) -> list[EncodedExample]:
    """Encode texts, or pairs of them, for a classifier; too long ones are truncated, with a note.

    Bidirectional models read `[CLS] a [SEP] b [SEP]`, causal ones `<|end|> a <|end|> b`, whose last token sees all.
    """
    tokenizer, causal = pretrained.tokenizer, pretrained.objective == "clm"
    first, separator = (tokenizer.eos_id,) * 2 if causal else (tokenizer.roles["cls"], tokenizer.roles["sep"])
    num_specials = (1 if second_texts is None else 2) + int(not causal)
    examples, num_truncated = [], 0
    for number, text in enumerate(texts):
        a = encode_checked(tokenizer, text)
        b = [] if second_texts is None else encode_checked(tokenizer, second_texts[number])
        if len(a) + len(b) > max_length - num_specials:
            num_truncated += 1
            a, b = truncate_pair(a, b, max_length - num_specials)
        ids = [first, *a] + ([] if causal else [separator])
        sentence_b_start = len(ids)
        if second_texts is not None:
            ids += [separator, *b] if causal else [*b, separator]
        examples.append(EncodedExample(ids, sentence_b_start))
    if num_truncated:
        console.info(f"{num_truncated:,} of {len(texts):,} texts truncated to {max_length:,} tokens")
    return examples


def truncate_pair(a: list[int], b: list[int], max_length: int) -> tuple[list[int], list[int]]:
    """Truncate a pair to a total length, the longer text first."""
    if not b:
        return a[:max_length], b
    shorter = min(len(a), len(b))
    if 2 * shorter > max_length:
        return a[: max_length - max_length // 2], b[: max_length // 2]
    return (a[: max_length - len(b)], b) if len(a) > len(b) else (a, b[: max_length - len(a)])


def predict_logits(
    classifier: SequenceClassifier, examples: Sequence[EncodedExample], device: torch.device
) -> NDArray[np.float32]:
    """The logits of examples, (examples, labels)."""
    classifier.eval()
    result = np.zeros((len(examples), classifier.classifier.out_features), np.float32)
    for indices in batches_by_length([len(example.input_ids) for example in examples], "classifying"):
        packed = pack_batch([examples[i] for i in indices], np.zeros(len(indices), np.int64), classifier.causal)
        batch = to_device(to_tensors(packed, pin=False), device)
        with torch.no_grad():
            result[indices] = classifier(**batch.model_inputs()).float().cpu().numpy()
    return result


def classify(
    pretrained: PretrainedModel, texts: Sequence[str], second_texts: Sequence[str] | None = None
) -> NDArray[np.float32]:
    """The logits of a fine-tuned model for texts, or pairs of them: (texts, labels), one column for regression.

    Raises BertGPTError if the model has no classification head, or if a logit is not finite.
    """
    if pretrained.head is None:
        hint = "bertgpt finetune TASK --model RUN --out RUN2 trains one"
        raise BertGPTError("BG222", "model has no classification head", hint=hint)
    device = pretrained.model.device
    examples = encode_examples(pretrained, texts, second_texts, pretrained.max_length)
    logits = predict_logits(pretrained.head.classifier, examples, device)
    if not np.isfinite(logits).all():
        raise BertGPTError("BG321", "model output is NaN or infinite")
    return logits


def probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Class probabilities (softmax in fp64) of logits, (texts, labels)."""
    exact = logits.astype(np.float64)
    exponentials = np.exp(exact - exact.max(axis=1, keepdims=True))
    probs: NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probs
