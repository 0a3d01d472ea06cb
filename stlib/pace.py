"""How fast this machine multiplies matrices, and what a training run will take on it."""

import functools
import time
from collections.abc import Callable

import numpy as np
import torch
from datasets import Dataset
from torch import nn

from stlib import records

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# What a training step multiplies with, outside the embeddings: (inputs, outputs) of each linear map of a layer.
MAPS = ((384, 1_152), (384, 384), (384, 1_536), (1_536, 384))
LAYERS = 6
WEIGHTS = LAYERS * sum(a * b for a, b in MAPS)
ROWS = 912  # tokens of a batch of 32 SNLI pairs, on average


def median_seconds(work: Callable[[], object], repeats: int = 15) -> float:
    """Return the median time of ``work()``, after one call that does not count."""

    def finish() -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    seconds = []
    for _ in range(repeats + 1):
        finish()
        start = time.perf_counter()
        work()
        finish()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[1:]))


def product_rate(dtype: torch.dtype, rows: int, device: str, repeats: int = 10) -> float:
    """Return the floating-point operations per second of a step's matrix products, run alone on ``rows`` tokens.

    Forward, gradient of the input and gradient of the weight of each linear map: 6 x rows x weights operations.
    """
    cases = [(torch.randn(rows, a), torch.randn(b, a), torch.randn(rows, b)) for a, b in MAPS]
    cases = [tuple(tensor.to(device, dtype) for tensor in case) for case in cases]

    def products():
        for x, weight, grad in cases:
            torch.mm(x, weight.t())
            torch.mm(grad, weight)
            torch.mm(grad.t(), x)

    return 6 * rows * WEIGHTS / LAYERS / median_seconds(products, repeats)


@functools.cache
def session_rate(precision: str) -> float:
    """Return ``product_rate`` of this machine's processor, measured once per session, in about half a second."""
    with torch.random.fork_rng(devices=[]):  # a run's random numbers must not depend on whether this was asked
        return product_rate(PRECISIONS[precision], ROWS, "cpu", repeats=3)


def expected_seconds(steps: int, tokens_per_step: float, weights: int, engine: str, precision: str) -> float:
    """Return how long ``steps`` training steps will take on this machine's processor.

    The products of a step are timed here; how much of a step they are differs less from machine to machine than their
    rate does, and comes from ``stlib/records/bench_cpu.json``.

    Args:
        steps: training steps.
        tokens_per_step: tokens of a batch, all its sentences together.
        weights: of the encoder's linear maps.
        engine: ``packed`` or ``stock``.
        precision: ``fp32`` or ``bf16``.
    """
    shares = {row["variant"]: row["share_of_product_rate"] for row in records.load("bench_cpu")["rows"]}
    share = next(shares[name] for name in (f"{engine}, {precision}", engine, f"{engine}, fp32") if name in shares)
    return steps * 6 * weights * tokens_per_step / session_rate(precision) / share


def linear_weights(model: nn.Module) -> int:
    """Return the number of weights of a model's linear maps."""
    return sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))


def tokens_per_row(dataset: Dataset, tokenizer, sample: int = 256) -> float:
    """Return the mean number of tokens of a row, all its text columns together, over its first ``sample`` rows."""
    part = dataset.select(range(min(sample, len(dataset))))
    texts = [list(part[name]) for name, feature in part.features.items() if feature.dtype in ("string", "large_string")]
    return sum(len(ids) for column in texts for ids in tokenizer(column)["input_ids"]) / len(part)


def in_words(seconds: float) -> str:
    """Return a duration in words, as exact as an estimate is: ``40 seconds``, ``3 minutes``, ``4.5 hours``."""
    if seconds < 90:
        return f"{max(5, 5 * round(seconds / 5))} seconds"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} minutes"
    return f"{seconds / 3_600:.1f} hours"


def expectation(config, model) -> str:
    """Return how long a run will take, in words: on a processor measured, on a GPU left to the bar."""
    if config.device != "cpu":
        return "the bar says how long it takes"
    tokens = 2 * 14 * config.recipe.batch_size
    seconds = expected_seconds(config.last_step, tokens, linear_weights(model), config.engine, config.precision)
    return f"expect about {in_words(seconds / config.processes)} on this machine"
