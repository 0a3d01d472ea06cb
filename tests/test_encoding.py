import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, StaticEmbedding
from stlib.encoding import EncodeOnce, equal_length_batches, remembering, takes_token_ids

from stlib import data, sources
from stlib.errors import UsageError
from tests.tiny import SIZE

SENTENCES = [
    "A man is sleeping.",
    "Two dogs are running in a park.",
    "",
    "Café, naïve, 東京 – and [MASK]  with   spaces",
    "long " * 400,
    "A man is sleeping.",
]


def test_embeddings_of_the_base_model_are_the_librarys(base):
    ours = EncodeOnce(base).encode(SENTENCES)
    assert ours.shape == (6, 384)
    np.testing.assert_allclose(ours, base.encode(SENTENCES), atol=2e-6)


@pytest.mark.parametrize("batch_tokens", [1, 20, 2_048])
def test_embeddings_are_the_librarys_whatever_the_batch(tiny, batch_tokens):
    ours = EncodeOnce(tiny, batch_tokens=batch_tokens).encode(SENTENCES)
    assert ours.shape == (6, SIZE)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, tiny.encode(SENTENCES), atol=2e-6)


def test_bf16_is_close(tiny):
    ours = EncodeOnce(tiny, "bf16").encode(SENTENCES)
    assert ((ours * tiny.encode(SENTENCES)).sum(axis=1) > 0.999).all()
    assert not np.array_equal(ours, EncodeOnce(tiny).encode(SENTENCES))


def test_a_sentence_is_encoded_once(tiny, encoded):
    encoder = EncodeOnce(tiny)
    first = encoder.encode(["a cat", "a dog", "a cat"])
    second = encoder.encode(["a dog", "a tree"])
    assert encoded == [["a cat", "a dog"], ["a tree"]]
    np.testing.assert_array_equal(first[0], first[2])
    np.testing.assert_array_equal(first[1], second[0])
    assert remembering(encoder) is encoder


def test_the_order_of_sentences_does_not_matter(tiny):
    sentences = list(data.sts("sts", "test", sources.Source("mini"))["sentence1"])
    forwards, backwards = EncodeOnce(tiny).encode(sentences), EncodeOnce(tiny).encode(sentences[::-1])
    np.testing.assert_allclose(forwards, backwards[::-1], atol=2e-6)


def test_a_model_with_another_pooling(tiny):
    first_token = SentenceTransformer(modules=[tiny[0], Pooling(SIZE, pooling_mode="cls"), Normalize()], device="cpu")
    ours = EncodeOnce(first_token).encode(SENTENCES)
    np.testing.assert_allclose(ours, first_token.encode(SENTENCES), atol=2e-6)


@pytest.mark.parametrize(
    "options", [{"truncate_dim": 8}, {"prompts": {"query": "query: "}, "default_prompt_name": "query"}]
)
def test_a_model_with_a_prompt_or_fewer_dimensions_is_encoded_by_the_library(tiny, options):
    model = SentenceTransformer(modules=list(tiny), device="cpu", **options)
    assert not takes_token_ids(model)
    np.testing.assert_allclose(EncodeOnce(model).encode(SENTENCES), model.encode(SENTENCES), atol=2e-6)


def test_a_model_without_a_transformer_is_encoded_by_the_library(tiny):
    model = SentenceTransformer(modules=[StaticEmbedding(tiny.tokenizer, embedding_dim=8)], device="cpu")
    np.testing.assert_allclose(EncodeOnce(model).encode(SENTENCES), model.encode(SENTENCES), atol=2e-6)


def test_sentences_with_the_same_tokens_share_a_row(tiny):
    encoder = EncodeOnce(tiny)
    embeddings = encoder.encode(["A man.", "a  man .", "A dog."])
    assert encoder.rows == {"A man.": 0, "a  man .": 0, "A dog.": 1}
    assert encoder.embeddings.shape == (2, SIZE)
    np.testing.assert_allclose(embeddings, tiny.encode(["A man.", "a  man .", "A dog."]), atol=2e-6)


def test_a_batch_has_one_length_and_no_more_tokens_than_allowed():
    lengths = np.array([3, 7, 3, 3, 40, 7, 3])
    batches = equal_length_batches(lengths, 10)
    assert [batch.tolist() for batch in batches] == [[4], [1], [5], [0, 2, 3], [6]]


def test_no_sentences_give_no_embeddings(tiny):
    assert EncodeOnce(tiny).encode([]).shape == (0, SIZE)


def test_the_training_mode_of_the_model_is_kept_out(tiny):
    tiny.train()
    try:
        ours = EncodeOnce(tiny).encode(SENTENCES[:2])
    finally:
        tiny.eval()
    np.testing.assert_allclose(ours, tiny.encode(SENTENCES[:2]), atol=2e-6)


def test_an_unknown_precision_is_refused(tiny):
    with pytest.raises(UsageError, match="no precision 'int8'"):
        EncodeOnce(tiny, "int8")
