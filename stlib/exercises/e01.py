"""Checks of the exercises of notebook 01: the cosine, the longest input, and pooling by [CLS]."""

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sklearn.metrics.pairwise import cosine_similarity

from stlib.model import load_base


def exercise_1(cosine):
    random = np.random.default_rng(1)
    a, b = random.normal(size=(3, 5)), random.normal(size=(4, 5)) * [[1], [2], [3], [4]]
    expected = cosine_similarity(a, b)
    found = np.asarray(cosine(a.copy(), b.copy()), dtype=float)
    assert found.shape == (3, 4), "return a matrix with one row for each row of a and one column for each row of b"
    assert not np.allclose(found, a @ b.T), "this is the plain dot product, which grows with the length of the vectors"
    assert np.allclose(found, expected, atol=1e-5), "some cosines are off: divide each row by its length, in a and b"


def exercise_2(words_read):
    model = load_base("cpu")
    room = model.max_seq_length - 2  # [CLS] and [SEP] take two places
    cases = [
        (["boat"] * 5, 5, "return the number of words: a text of 5 short words is read to its end"),
        (["boat"] * 300, room, "of 300 short words too many or too few: which tokens are added to a text?"),
        (["skateboarding"] * 300, room // 2, "return words; a rare word takes as many places as it has tokens"),
    ]
    for words, expected, hint in cases:
        assert words_read(model, list(words)) == expected, hint
    model.max_seq_length = 16
    assert words_read(model, ["boat"] * 300) == 14, "ask the model for its longest input, model.max_seq_length"
    cut = ["boat"] * 13 + ["skateboarding", "boat"]
    assert words_read(model, cut) == 13, "stop at the first word of which not all tokens are read"


def exercise_3(cls_encoder):
    model, texts = load_base("cpu"), ["Rain.", "Two dogs are skateboarding."]
    mean = model.encode(texts)
    with torch.no_grad():
        first = model[0](model.preprocess(texts))["token_embeddings"][:, 0].numpy()
    encoder = cls_encoder(model)
    assert isinstance(encoder, SentenceTransformer), "return a SentenceTransformer"
    found = np.asarray(encoder.encode(texts))
    unchanged = np.allclose(model.encode(texts), mean, atol=1e-4)
    assert unchanged, "the model that goes in must still pool by the mean: put a new pooling module into a new encoder"
    assert not np.allclose(found, mean, atol=1e-4), "your encoder still pools by the mean"
    unit = np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-4)
    assert unit, "your embeddings do not have length 1: which module is missing?"
    expected = first / np.linalg.norm(first, axis=1, keepdims=True)
    assert np.allclose(found, expected, atol=1e-4), "your embeddings are not the transformer's vectors of [CLS]"
