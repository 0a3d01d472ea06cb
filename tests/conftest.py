"""Fixtures shared by the unit tests.

Each imports the heavy packages itself: the process that hands tests to the workers loads this file, and needs none of them.
"""

import gc
from pathlib import Path

import hypothesis
import pytest

# The same examples in every run: a failure can be repeated, and a green run stays green.
hypothesis.settings.register_profile("course", derandomize=True, database=None, deadline=None)
hypothesis.settings.load_profile("course")

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def templates_compiled_once():
    """Let jinja remember templates: it compiles the library's card anew for each checkpoint, longer than a tiny run takes."""
    environment, compiled = pytest.importorskip("jinja2").Environment, {}
    compile_anew = environment.compile

    def compile_once(self, source, *arguments, **options):
        key = source, arguments, *options.items()
        if key not in compiled:
            compiled[key] = compile_anew(self, source, *arguments, **options)
        return compiled[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environment, "compile", compile_once)
        yield


@pytest.fixture(scope="session")
def base():
    from stlib.model import load_base

    return load_base("cpu")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """The folder of a tiny encoder of our own: what tests of logic train, with ``start=``."""
    from tests.tiny import save_tiny_model

    folder = save_tiny_model(tmp_path_factory.mktemp("tiny"))
    gc.freeze()  # the library collects garbage as each training starts, and would look through all that was imported
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_model):
    """The tiny encoder itself, which no test may change."""
    from stlib.model import load_encoder

    model = load_encoder(tiny_model, "cpu")
    model.model_card_data.local_files_only = True  # else its card would ask the hub what it is based on
    return model


@pytest.fixture
def tiny_base(monkeypatch, tiny_model):
    """Let the tiny encoder stand in for the base model, where a run has no ``start``."""
    from stlib.model import load_encoder

    monkeypatch.setattr("stlib.train.load_base", lambda device: load_encoder(tiny_model, device))


@pytest.fixture(scope="session")
def six_steps(tiny_model):
    """The arguments of ``train`` for a run of six steps on mini pairs, with checkpoints at every second one."""
    options = {"recipe": "trained_head", "profile": "mini", "nli_split": "train[:384]", "log_every": 2}
    return {**options, "start": tiny_model}


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, six_steps):
    """A finished run of the tiny encoder: enough to test what a run writes."""
    from stlib.train import train

    return train(out=tmp_path_factory.mktemp("runs") / "tiny", **six_steps)


@pytest.fixture(scope="session")
def real_run(tmp_path_factory, six_steps):
    """The same run of the real base model, for the tests that are about it; one checkpoint, as they are large."""
    from stlib.train import train

    return train(out=tmp_path_factory.mktemp("runs") / "real", **{**six_steps, "start": None, "log_every": 6})


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
    from stlib.model import EncodeOnce

    calls, original = [], EncodeOnce.encode_distinct

    def counting(self, sentences):
        calls.append(sentences)
        return original(self, sentences)

    monkeypatch.setattr(EncodeOnce, "encode_distinct", counting)
    return calls


def weights(folder):
    """All weights of a run folder, the head's included."""
    from safetensors.torch import load_file

    return load_file(folder / "model" / "model.safetensors") | load_file(folder / "model" / "nli_head.safetensors")


def assert_same_run(folder, other):
    """Both runs have the same log, byte for byte, and the same weights, bit for bit."""
    import torch

    assert (folder / "log.csv").read_bytes() == (other / "log.csv").read_bytes()
    ours, theirs = weights(folder), weights(other)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name
