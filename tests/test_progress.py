"""Bars and expected times: what a reader sees while something works."""

import re
import subprocess
import sys

import pytest
import torch

from stlib import pace, progress
from stlib.data import nli
from stlib.model import EncodeOnce
from stlib.sources import Source


@pytest.fixture
def shown(monkeypatch, capsys):
    """A function that returns what bars have written, with bars on: they are off in all other tests."""
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    return lambda: capsys.readouterr().err


def test_a_bar_is_a_line_of_text_where_a_program_asks_for_one(monkeypatch, shown):
    monkeypatch.setenv("STLIB_PROGRESS", "text")
    with progress.bar(total=200, desc="training", unit="steps", delay=0) as bar:
        bar.update(34)
        bar.set_postfix(loss="0.834")
    assert re.search(r"\rtraining: 34/200 steps, \S+ left, loss=0\.834", shown())


def test_two_bars_in_text_share_one_line(monkeypatch, shown):
    monkeypatch.setenv("STLIB_PROGRESS", "text")
    for _ in progress.bar(range(2), desc="STS", unit="tasks", delay=0):
        list(progress.bar(range(3), desc="encoding", unit="batches", delay=0))
    written = shown()
    assert "STS: 0/2 tasks" in written
    assert "encoding: 0/3 batches" in written
    assert "\n" not in written.rstrip("\n")


def test_work_of_less_than_a_second_shows_no_bar(shown):
    assert list(progress.bar(range(3))) == [0, 1, 2]
    assert shown() == ""


def test_no_bar_where_they_are_off(monkeypatch, shown):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert progress.disabled()
    assert list(progress.bar(range(3), delay=0)) == [0, 1, 2]
    assert shown() == ""


def test_the_rate_of_products_is_measured_once_per_session(monkeypatch):
    calls = []
    monkeypatch.setattr(pace, "product_rate", lambda *arguments, **options: calls.append(arguments) or 1e9)
    pace.session_rate.cache_clear()
    assert [pace.session_rate("fp32"), pace.session_rate("fp32")] == [1e9, 1e9]
    assert calls == [(torch.float32, pace.ROWS, "cpu")]
    pace.session_rate.cache_clear()


def test_measuring_leaves_the_random_numbers_alone():
    pace.session_rate.cache_clear()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    assert pace.session_rate("fp32") > 1e8
    assert torch.equal(torch.rand(3), expected)


def test_the_expected_time_grows_with_the_work(monkeypatch):
    monkeypatch.setattr(pace, "session_rate", {"fp32": 1e11, "bf16": 4e11}.get)
    one = pace.expected_seconds(100, 900, pace.WEIGHTS, "packed", "fp32")
    assert one == pytest.approx(100 * 6 * pace.WEIGHTS * 900 / 1e11 / 0.708)  # the share of products on record
    assert pace.expected_seconds(200, 900, pace.WEIGHTS, "packed", "fp32") == pytest.approx(2 * one)
    assert pace.expected_seconds(100, 450, pace.WEIGHTS, "packed", "fp32") == pytest.approx(one / 2)
    assert pace.expected_seconds(100, 900, pace.WEIGHTS, "packed", "bf16") < one
    assert pace.expected_seconds(100, 900, pace.WEIGHTS, "stock", "fp32") > one


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.3, "5 seconds"), (38, "40 seconds"), (89, "90 seconds"), (95, "2 minutes"), (5_000, "83 minutes"), (16_200, "4.5 hours")],
)  # fmt: skip
def test_a_duration_in_words(seconds, words):
    assert pace.in_words(seconds) == words


def test_weights_and_tokens_are_counted(base):
    assert pace.linear_weights(base) == pace.WEIGHTS + 384 * 384  # BERT's own pooler, which no step uses
    pairs = nli("train[:64]", Source("mini"))
    ids = base.tokenizer([*pairs["sentence_0"], *pairs["sentence_1"]])["input_ids"]
    assert pace.tokens_per_row(pairs, base.tokenizer) == sum(map(len, ids)) / 64
    assert pace.tokens_per_row(pairs, base.tokenizer, sample=8) != pace.tokens_per_row(pairs, base.tokenizer)


def test_encoding_shows_its_batches(base, monkeypatch, shown):
    monkeypatch.setenv("STLIB_PROGRESS", "text")
    delayed = progress.bar
    monkeypatch.setattr(progress, "bar", lambda *a, **options: delayed(*a, **{**options, "delay": 0}))
    EncodeOnce(base).encode(["a cat", "two dogs are running"])
    assert "encoding: 0/2 batches" in shown()


def test_a_bar_needs_no_notebook():
    """In a plain process, where IPython is not imported, bars go to the terminal."""
    code = "from stlib import progress; print(list(progress.bar(range(2), delay=0, desc='work')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[0, 1]\n"
