"""Helpers of the course: load the base model, build the data, train, evaluate, plot.

Names are imported when they are first used, so that ``import stlib`` stays quick.
"""

import importlib

# Not left for later: once the module stlib.setup is imported, stlib.setup would be that module.
from stlib.setup import prepare, setup

__version__ = "0.1.0"

_HOME = {
    "load_base": "model",
    "load_encoder": "model",
    "load_classifier": "model",
    "get_source": "sources",
    "nli": "data",
    "sts": "data",
    "classification": "data",
    "available_tasks": "sources",
    "NLI_LABELS": "data",
    "UsageError": "errors",
    "nli_scores": "evaluate",
    "sts_scores": "evaluate",
    "sts_table": "evaluate",
    "probe_scores": "evaluate",
    "probe_table": "evaluate",
    "EncodeOnce": "model",
    "NLIClassifier": "model",
    "get_profile": "settings",
    "get_recipe": "recipes",
    "RECIPES": "recipes",
    "Run": "runs",
    "ProgressBar": "trainer",
    "find_or_train": "train",
    "train": "train",
    "published_card": "cards",
    "published_log": "cards",
    "baselines": "cards",
}
__all__ = [*_HOME, "plots", "prepare", "setup"]


def __getattr__(name: str):
    if name == "plots":
        return importlib.import_module("stlib.plots")
    if name in _HOME:
        return getattr(importlib.import_module(f"stlib.{_HOME[name]}"), name)
    raise AttributeError(f"module 'stlib' has no attribute {name!r}")
