"""Fixtures shared by the unit tests."""

from pathlib import Path

import hypothesis
import pytest
from safetensors.torch import load_file

# The same examples in every run: a failure can be repeated, and a green run stays green.
hypothesis.settings.register_profile("course", derandomize=True, database=None, deadline=None)
hypothesis.settings.load_profile("course")

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def base():
    from stlib.base_model import load_base

    return load_base("cpu")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """A real run of six steps on mini pairs: enough to test what a run writes, in seconds."""
    from stlib.training import train

    return train(
        "trained_head", "mini", out=tmp_path_factory.mktemp("runs") / "tiny", nli_split="train[:192]", log_every=2
    )


@pytest.fixture
def data_folder(tmp_path):
    """A data folder in the hub's layout, with few rows, a row labelled -1 and one in the hub's own file names."""
    import pandas as pd

    rows = [
        ("A man sleeps.", "A person rests.", 0),
        ("A dog runs.", "A cat runs.", 2),
        ("A girl eats.", "She is late.", 1),
    ]
    snli = pd.DataFrame(rows * 20 + [("A boy waits.", "A boy sings.", -1)], columns=["premise", "hypothesis", "label"])
    (tmp_path / "snli" / "plain_text").mkdir(parents=True)
    snli.to_parquet(tmp_path / "snli" / "plain_text" / "train-00000-of-00001.parquet")
    snli.to_parquet(tmp_path / "snli" / "test.parquet")
    pairs = pd.DataFrame(
        {"sentence1": ["a cat", "a dog", "the sun"], "sentence2": ["a kitten", "a puppy", "a tax"], "score": [4, 3, 0]}
    )
    (tmp_path / "sts13-sts").mkdir()
    pairs.to_parquet(tmp_path / "sts13-sts" / "test.parquet")
    reviews = pd.DataFrame(
        {"text": [f"good {i}" for i in range(20)] + [f"bad {i}" for i in range(20)], "label": [1] * 20 + [0] * 20}
    )
    (tmp_path / "cr").mkdir()
    reviews.to_parquet(tmp_path / "cr" / "train.parquet")
    return tmp_path


@pytest.fixture
def encoded(monkeypatch):
    """The lists of sentences that reach an encoder, one list a call."""
    from stlib.encoding import EncodeOnce

    calls, original = [], EncodeOnce.encode_distinct

    def counting(self, sentences, progress):
        calls.append(sentences)
        return original(self, sentences, progress)

    monkeypatch.setattr(EncodeOnce, "encode_distinct", counting)
    return calls


def weights(folder):
    """All weights of a run folder, the head's included."""
    return load_file(folder / "model" / "model.safetensors") | load_file(folder / "model" / "nli_head.safetensors")
