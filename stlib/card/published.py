"""The published model card as data."""

import json
from functools import cache
from importlib.resources import files

import pandas as pd


@cache
def published_card() -> dict:
    """All facts of the published card, from ``published.json``.

    Keys: ``front_matter``, ``base_model`` (id, revision), ``model`` (max_seq_length, dimensions, architecture …),
    ``usage_sentences``, ``dataset`` (rows, columns, statistics over ``statistics_rows`` rows, samples), ``hyperparameters``,
    ``non_default_hyperparameters``, ``log`` (epoch, step, loss), ``versions``, ``sections``.
    """
    return json.loads((files("stlib.card") / "published.json").read_text(encoding="utf-8"))


def published_log() -> pd.DataFrame:
    """The card's 137 log rows: ``epoch``, ``step`` and ``loss``, the mean training loss over the 500 steps up to it."""
    card = published_card()
    return pd.DataFrame(card["log"], columns=card["log_columns"]).astype({"step": int})


def baselines() -> dict:
    """Published scores of other models, each with its source, from ``baselines.json``."""
    return json.loads((files("stlib.card") / "baselines.json").read_text(encoding="utf-8"))
