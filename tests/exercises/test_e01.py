"""The checks of notebook 01 pass right answers, in more than one style, and turn away plausible wrong ones."""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

from stlib.exercises import find, shortcoming


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def by_torch(a, b):
    a, b = torch.tensor(a), torch.tensor(b)
    return torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=-1)


@pytest.mark.parametrize("answer", [lambda a, b: unit(a) @ unit(b).T, by_torch])
def test_cosine(answer):
    assert shortcoming(find("01.1"), answer) is None


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda a, b: None, "matrix"),
        (lambda a, b: unit(b) @ unit(a).T, "matrix"),
        (lambda a, b: (unit(a) * unit(b)[: len(a)]).sum(axis=1), "matrix"),
        (lambda a, b: a @ b.T, "dot product"),
        (lambda a, b: unit(a) @ b.T, "length"),
        (lambda a, b: a @ b.T / np.linalg.norm(a) / np.linalg.norm(b), "each row"),
    ],
)
def test_wrong_cosines(answer, hint):
    assert hint in shortcoming(find("01.1"), answer)


def words_read(model, words):
    tokens = [len(model.tokenizer.tokenize(word)) for word in words]
    return int((np.cumsum(tokens) <= model.max_seq_length - 2).sum())


def words_read_one_by_one(model, words):
    number = used = 0
    for word in words:
        used += len(model.tokenizer(word)["input_ids"]) - 2
        if used + 2 > model.max_seq_length:
            break
        number += 1
    return number


@pytest.mark.parametrize("answer", [words_read, words_read_one_by_one])
def test_words_read(answer):
    assert shortcoming(find("01.2"), answer) is None


def words_begun(model, words):
    tokens = np.array([len(model.tokenizer.tokenize(word)) for word in words])
    return int((np.cumsum(tokens) - tokens < model.max_seq_length - 2).sum())


def words_that_fit(model, words):
    used = number = 0
    for tokens in map(model.tokenizer.tokenize, words):
        if used + len(tokens) + 2 <= model.max_seq_length:
            used, number = used + len(tokens), number + 1
    return number


def tokens_read(model, words):
    return model.preprocess([" ".join(words)])["input_ids"].shape[1] - 2


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda model, words: None, "5 short words"),
        (lambda model, words: 254, "5 short words"),
        (lambda model, words: len(words), "are added"),
        (lambda model, words: min(len(words), model.max_seq_length), "are added"),
        (tokens_read, "rare word"),
        (lambda model, words: min(254 // len(model.tokenizer.tokenize(words[0])), len(words)), "max_seq_length"),
        (words_begun, "not all tokens"),
        (words_that_fit, "stop at the first"),
    ],
)
def test_wrong_numbers_of_words(answer, hint):
    assert hint in shortcoming(find("01.2"), answer)


def cls_encoder(model):
    return SentenceTransformer(modules=[model[0], Pooling(384, pooling_mode="cls"), Normalize()])


def test_cls_encoder():
    assert shortcoming(find("01.3"), cls_encoder) is None


def changed(model):
    model[1] = Pooling(384, pooling_mode="cls")
    return model


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda model: None, "SentenceTransformer"),
        (lambda model: "cls", "SentenceTransformer"),
        (lambda model: model, "still pools by the mean"),
        (changed, "goes in"),
        (lambda model: SentenceTransformer(modules=[model[0], Pooling(384, pooling_mode="cls")]), "length 1"),
        (lambda model: SentenceTransformer(modules=[model[0], Pooling(384, pooling_mode="max"), model[2]]), "[CLS]"),
    ],
)
def test_wrong_cls_encoders(answer, hint):
    assert hint in shortcoming(find("01.3"), answer)
