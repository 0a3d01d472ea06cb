"""The roofline of this machine: what bounds an operation, arithmetic or memory (Williams et al. 2009, doi 10.1145/1498765.1498785)."""

import pandas as pd
import torch
from torch import nn

from stlib.pace import PRECISIONS, ROWS, median_seconds, product_rate

PARAMETERS = 22_713_216


def bandwidth(megabytes: int = 256) -> float:
    """Bytes a second that a copy reads and writes, in an array larger than most caches."""
    source = torch.ones(megabytes * 2**18)
    target = torch.empty_like(source)
    return 2 * source.nbytes / median_seconds(lambda: target.copy_(source), repeats=5)


def measure(precision: torch.dtype) -> tuple[pd.DataFrame, dict[str, float]]:
    """Operations of a training step on this processor, each alone.

    Returns:
        A table with ``operation``, ``intensity`` (operations for each byte read or written) and ``gflops`` (10^9
        operations a second); and the ceilings ``bandwidth`` (bytes a second) and, for each precision, the rate of the
        matrix products. For what is not a product, the count of operations is a convention: 10 a value for GELU,
        8 for LayerNorm, 12 for AdamW.
    """
    ceilings = {"bandwidth": bandwidth()}
    rows = []
    for dtype in dict.fromkeys((torch.float32, precision)):
        name = next(name for name, found in PRECISIONS.items() if found == dtype)
        ceilings[name] = product_rate(dtype, ROWS, "cpu")
        x, weight = torch.randn(ROWS, 384).to(dtype), torch.randn(1_536, 384).to(dtype)
        wide = torch.mm(x, weight.t())
        size = wide.element_size()
        rows += [
            (f"matrix product, {name}", 2 * ROWS * 384 * 1_536, (x.numel() + weight.numel() + wide.numel()) * size,
             lambda x=x, weight=weight: torch.mm(x, weight.t())),
            (f"GELU, {name}", 10 * wide.numel(), 2 * wide.numel() * size, lambda wide=wide: nn.functional.gelu(wide)),
        ]  # fmt: skip
    values = torch.randn(ROWS, 384)
    rows.append(
        ("LayerNorm, fp32", 8 * values.numel(), 8 * values.numel(), lambda: nn.functional.layer_norm(values, (384,)))
    )
    parameter = nn.Parameter(torch.zeros(PARAMETERS))
    parameter.grad = torch.ones_like(parameter)
    step = torch.optim.AdamW([parameter], fused=True).step
    rows.append(("AdamW, fp32", 12 * PARAMETERS, 28 * PARAMETERS, step))
    table = [(name, work / moved, work / median_seconds(call) / 1e9) for name, work, moved, call in rows]
    return pd.DataFrame(table, columns=["operation", "intensity", "gflops"]), ceilings
