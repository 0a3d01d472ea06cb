"""Helpers of the course: load the base model, build the data, train, evaluate, plot.

Names are imported when they are first used, so that ``import stlib`` stays quick.
"""

import importlib

__version__ = "0.1.0"

_HOME = {
    "load_base": "base_model",
    "get_source": "sources",
    "nli": "data",
    "sts": "data",
    "classification": "data",
    "available_tasks": "sources",
    "NLI_LABELS": "data",
    "UsageError": "errors",
    "nli_scores": "evaluation",
    "sts_scores": "evaluation",
    "sts_table": "evaluation",
    "probe_scores": "probes",
    "probe_table": "probes",
    "EncodeOnce": "encoding",
    "NLIClassifier": "nli_classifier",
    "get_profile": "profiles",
    "get_recipe": "recipes",
    "RECIPES": "recipes",
    "Run": "runs",
    "ProgressBar": "trainer",
    "find_or_train": "training",
    "train": "training",
    "published_card": "cards",
    "published_log": "cards",
    "baselines": "cards",
    "setup": "notebook",
}
__all__ = [*_HOME, "plots"]


def __getattr__(name: str):
    if name == "plots":
        return importlib.import_module("stlib.plots")
    if name in _HOME:
        return getattr(importlib.import_module(f"stlib.{_HOME[name]}"), name)
    raise AttributeError(f"module 'stlib' has no attribute {name!r}")
