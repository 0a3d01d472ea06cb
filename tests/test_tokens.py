"""Sentences get exactly the tokenizer's ids, and the Arrow file gives back exactly the rows."""

import json
import random
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import BertTokenizer

from stlib import data, sources
from stlib.fast import tokens
from stlib.fast.tokens import TokenisedPairs, token_ids, tokenise, tokenizer_key
from stlib.model import load_encoder
from stlib.train import train
from tests.conftest import REAL_DATA
from tests.tiny import MAX_LENGTH, vocabulary

ODD = [
    "", " ", "  two  spaces ", "[MASK] is special", "[sep]", "don't stop!!", "caf\u00e9 ol\u00e9", "a\tb\nc", "\u4f60\u597d world",
    "x" * 150, "word " * 400, "a\u0000b", "tab\x7fq", "A-B_C/D\\E^F`G~{}|", "\u200bzero width", "e\u0301", "\U0001f600 smile", "...",
]  # fmt: skip


def reference(tokenizer, sentences, max_length=256):
    return tokenizer(sentences, truncation=True, max_length=max_length)["input_ids"]


def ids_written(tokenizer, sentences, max_length, path):
    """The ids that ``tokenise`` writes of one column."""
    file = tokenise(Dataset.from_dict({"text": sentences}), tokenizer, max_length, path)
    return pa.ipc.open_stream(pa.memory_map(str(file))).read_all().column("text").to_pylist()


@pytest.mark.parametrize("max_length", [256, 8])
@pytest.mark.parametrize("capitals", [False, True])
def test_odd_sentences_get_the_tokenizers_own_ids(base, tmp_path, max_length, capitals):
    """So do those that come twice, whatever the tokenizer: here also one that keeps capitals."""
    tokenizer = base.tokenizer
    if capitals:
        tokenizer = BertTokenizer(vocab={**tokenizer.get_vocab(), "Capital": len(tokenizer)}, do_lower_case=False)
    sentences = [*ODD, "Capital letters", "capital letters", *ODD]
    ids = ids_written(tokenizer, sentences, max_length, tmp_path / "odd.arrow")
    assert ids == reference(tokenizer, sentences, max_length)
    assert (ids[len(ODD)] != ids[len(ODD) + 1]) is capitals


@settings(max_examples=50)
@given(sentences=st.lists(st.text(max_size=40), min_size=1, max_size=8))
def test_any_text(base, sentences):
    sentences = [text.encode("utf-8", "ignore").decode() for text in sentences]  # no lone surrogates: no UTF-8 for them
    backend = base.tokenizer.backend_tokenizer
    backend.no_padding()
    assert token_ids(pa.array(sentences), backend).to_pylist() == reference(base.tokenizer, sentences)


@pytest.mark.real_data
@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="no real corpora beside the project (../shared/data)")
def test_all_of_snli_validation_and_test(base, tmp_path):
    pairs = data.nli("validation+test", sources.Source("folder", REAL_DATA))
    sentences = [*pairs["sentence_0"], *pairs["sentence_1"]]
    assert ids_written(base.tokenizer, sentences, 256, tmp_path / "snli.arrow") == reference(base.tokenizer, sentences)


def test_batches_hold_the_rows_asked_for(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(tokens, "CHUNK", 64)  # several chunks, the last one partly filled
    pairs = data.nli("train[:150]", sources.Source("mini"))
    path = tokenise(pairs, tiny.tokenizer, 256, tmp_path / "tokens" / "pairs.arrow")
    dataset = TokenisedPairs(path)
    assert (len(dataset), dataset.texts, dataset.others) == (150, ["sentence_0", "sentence_1"], ["label"])
    rows = random.Random(0).sample(range(150), 40)
    batch = dataset.__getitems__(rows)
    sentences = [pairs[row][name] for name in dataset.texts for row in rows]
    expected = reference(tiny.tokenizer, sentences)
    assert batch["lengths"] == [len(ids) for ids in expected]
    assert batch["ids"].tolist() == [i for ids in expected for i in ids]
    assert batch["label"].tolist() == [pairs[row]["label"] for row in rows]
    assert batch["label"].dtype == torch.int64


def test_tokenised_once_and_never_half(tiny, tmp_path, monkeypatch):
    pairs = data.nli("train[:90]", sources.Source("mini"))
    path = tmp_path / "pairs.arrow"
    monkeypatch.setattr(tokens, "token_ids", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tokenise(pairs, tiny.tokenizer, 256, path)
    assert not list(tmp_path.iterdir())  # nor a part of it
    monkeypatch.undo()
    tokenise(pairs, tiny.tokenizer, 256, path)
    written = path.stat().st_mtime_ns
    assert tokenise(pairs, tiny.tokenizer, 256, path).stat().st_mtime_ns == written


def test_two_runs_may_tokenise_the_same_corpus_at_once(tiny, tmp_path, monkeypatch):
    dataset, path, others = data.nli("train[:64]", sources.Source("mini")), tmp_path / "pairs.arrow", []
    call = tokens.token_ids

    def call_while_another_run_works(*arguments):
        if not others:
            others.append("another run")
            tokenise(dataset, tiny.tokenizer, 256, path)
        return call(*arguments)

    monkeypatch.setattr(tokens, "token_ids", call_while_another_run_works)
    assert len(TokenisedPairs(tokenise(dataset, tiny.tokenizer, 256, path))) == 64
    assert [file.name for file in tmp_path.iterdir()] == ["pairs.arrow"]


def test_every_tokenizer_has_tokens_of_its_own(tmp_path, monkeypatch, tiny_model, six_steps):
    """Runs on the same pairs share the file of their tokens, but not with a model of another vocabulary or length."""
    monkeypatch.setenv("STLIB_RUNS", str(tmp_path))
    numbers = {token: number for number, token in enumerate([*vocabulary()[:5], *reversed(vocabulary()[5:])])}
    pair = data.nli("train[:64]", sources.Source("mini"))[0]
    files = []
    monkeypatch.setattr("stlib.train.tokenise", lambda *a, **k: files.append(tokenise(*a, **k)) or files[-1])
    for name in ("first", "same", "shorter", "other"):
        model = load_encoder(tiny_model, "cpu")
        if name == "shorter":
            model.max_seq_length = 6
        if name == "other":
            model[0].processor = BertTokenizer(vocab=numbers, do_lower_case=True, model_max_length=MAX_LENGTH)
        model.save_pretrained(str(tmp_path / name), create_model_card=False)
        options = {**six_steps, "nli_split": "train[:64]", "max_steps": 1, "engine": "packed"}
        train(out=tmp_path / f"run, {name}", **{**options, "start": tmp_path / name})
        batch = TokenisedPairs(files[-1]).__getitems__([0])
        expected = reference(model.tokenizer, [pair["sentence_0"], pair["sentence_1"]], model.max_seq_length)
        assert batch["ids"].tolist() == [number for sentence in expected for number in sentence], name
    assert files[0] == files[1]


CHANGES = {
    "normaliser": lambda state, draw: state["normalizer"].update(lowercase=not state["normalizer"]["lowercase"]),
    "accents": lambda state, draw: state["normalizer"].update(strip_accents=False),
    "word": lambda state, draw: renamed(state["model"]["vocab"], draw(st.sampled_from(vocabulary()))),
    "two words": lambda state, draw: exchanged(state["model"]["vocab"], draw(st.permutations(vocabulary()))[:2]),
    "one more word": lambda state, draw: state["model"]["vocab"].update(unheard=len(vocabulary())),
    "longest word": lambda state, draw: state["model"].update(max_input_chars_per_word=draw(st.integers(1, 99))),
    "prefix inside a word": lambda state, draw: state["model"].update(continuing_subword_prefix="@@"),
    "unknown word": lambda state, draw: state["model"].update(unk_token="[PAD]"),
    "words kept whole": lambda state, draw: state["added_tokens"][-1].update(lstrip=not state["added_tokens"][-1]["lstrip"]),
    "special tokens": lambda state, draw: state["post_processor"].update(type="BertProcessing", sep=["[PAD]", 0], cls=["[CLS]", 2]),
    "words by spaces": lambda state, draw: state.update(pre_tokenizer={"type": "WhitespaceSplit"}),
}  # fmt: skip


def renamed(words, word):
    words["x" + word + "y"] = words.pop(word)


def exchanged(words, pair):
    first, second = pair
    words[first], words[second] = words[second], words[first]


@settings(max_examples=60)
@given(what=st.sampled_from(sorted(CHANGES)), draw=st.data(), length=st.integers(3, 512))
def test_whatever_changes_in_a_tokenizer_changes_its_key(tiny, what, draw, length):
    """The longest input too; what the tokenizer did before does not."""
    state = json.loads(tiny.tokenizer.backend_tokenizer.to_str())
    first, same = (holder(state) for _ in range(2))
    CHANGES[what](state, draw.draw)
    key = tokenizer_key(first, length)
    same.backend_tokenizer.enable_truncation(7)
    same.backend_tokenizer.enable_padding(length=9)
    assert tokenizer_key(same, length) == key
    assert tokenizer_key(same, length + draw.draw(st.integers(1, 9))) != key
    assert tokenizer_key(holder(state), length) != key


def holder(state):
    """Enough of a tokenizer for its key."""
    return SimpleNamespace(backend_tokenizer=Tokenizer.from_str(json.dumps(state)))


def test_other_columns_keep_their_type(tiny, tmp_path):
    scored = Dataset.from_dict({"a": ["one", "two"], "b": ["three", "four"], "score": [0.25, 1.0]})
    batch = TokenisedPairs(tokenise(scored, tiny.tokenizer, 256, tmp_path / "scored.arrow")).__getitems__([1, 0])
    np.testing.assert_allclose(batch["score"].numpy(), [1.0, 0.25])
    assert batch["score"].is_floating_point()
