"""Who trained the published card? Hypotheses as recipes, their recorded runs, and what a frozen head allows at best."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from stlib import records
from stlib.cards import published_log
from stlib.recipes import CARD, CARD_AS_PRINTED, FIT_DEFAULTS

# Bowman et al. 2015 (arXiv 1508.05326), table 2: of the pairs that five people labelled, 6.8 % got another gold label
# than their author's and 2.0 % got none. Training pairs carry their author's label; validation and test pairs the gold
# label. Of those with a gold label, the author's is another one in 6.8 of 98.0.
AUTHOR_DISAGREES = 0.068 / 0.980

TRAINED = CARD.but("card_head_trained", "the card's recipe, but the head is given to the optimizer", train_head=True)
HYPOTHESES = {
    "card": CARD,
    "as printed": CARD_AS_PRINTED,
    "head trained": TRAINED,
    "warm-up 100": CARD.but("card_warmup_100", "the card's recipe, warm-up over 100 steps", warmup_steps=100),
    "warm-up 10,000": FIT_DEFAULTS,
    "card, noisy labels": CARD,
    "head trained, noisy labels": TRAINED,
    "1e-5 over 500": CARD.but("card_1e5_500", "the card's slope, half its peak", learning_rate=1e-5, warmup_steps=500),
    "4e-5 over 2,000": CARD.but("card_4e5_2000", "the card's slope, twice its peak", learning_rate=4e-5, warmup_steps=2_000),
}  # fmt: skip
COST_NAMES = {
    "final_loss": "loss, last epoch", "accuracy": "NLI accuracy", "refit_accuracy": "NLI accuracy, head refitted",
    "stsbenchmark-sts": "STS-B", "sts13-sts": "STS13", "sts14-sts": "STS14", "sts15-sts": "STS15",
}  # fmt: skip


def recorded(hypothesis: str | None = None) -> list[dict]:
    """Return the runs that ``research/forensics.py`` recorded for one hypothesis, or for all."""
    return [run for run in records.load("forensics")["runs"] if hypothesis in (None, run["hypothesis"])]


def cost_table(found: dict) -> pd.DataFrame:
    """Return what a frozen head cost: ``seeds``, ``mean`` and ``spread`` (standard deviation) per ``measure`` and ``arm``."""
    runs = pd.DataFrame([*found["runs"], {"arm": "base model", **found["base"]}]).rename(columns=COST_NAMES)
    scores = runs.melt("arm", list(COST_NAMES.values()), "measure").dropna(subset="value")
    groups = scores.groupby(["measure", "arm"], sort=False)["value"]
    return groups.agg(seeds="count", mean="mean", spread="std").reset_index()


def with_spread(table: pd.DataFrame) -> pd.DataFrame:
    """Return ``cost_table`` as text: a line per measure, a column per arm, each cell ``mean ± spread``."""
    cells = [
        f"{row.mean:.{digits}f}" + (f" ± {row.spread:.{digits}f}" if row.seeds > 1 else "")
        for row, digits in ((row, 3 if "loss" in row.measure else 1) for row in table.itertuples())
    ]
    return table.assign(cell=cells).set_index(["measure", "arm"])["cell"].unstack(fill_value="-", sort=False)


def curves(runs: list[dict]) -> pd.DataFrame:
    """Return the loss curves of recorded runs: ``hypothesis``, ``seed``, ``step``, and the mean ``loss`` since the row before."""
    rows = [(run["hypothesis"], run["seed"], int(step), loss) for run in runs for step, loss in run["loss"].items()]
    return pd.DataFrame(rows, columns=["hypothesis", "seed", "step", "loss"])


def card_rows(curve: pd.DataFrame) -> pd.DataFrame:
    """Return the mean loss over each 500 steps, as the card logs it: a line per run, a column per row (NaN if not complete)."""
    last = -(-curve["step"] // 500) * 500
    table = curve.assign(row=last).pivot_table(index=["hypothesis", "seed"], columns="row", values="loss", sort=False)
    reached = curve.groupby(["hypothesis", "seed"])["step"].max()
    return table.apply(lambda column: column.where(reached.reindex(table.index) >= column.name))


def verdicts(rows: pd.DataFrame) -> pd.DataFrame:
    """Return how far each hypothesis lies from the card, a line per hypothesis and column of ``rows`` (from ``card_rows``).

    ``spread`` is the standard deviation over the seeds; ``gap`` is ``mean`` minus ``card``, and ``spreads`` the gap in units
    of the spread (for a hypothesis with one seed: of the median spread of the others).
    """
    losses = rows.stack().groupby(level=["hypothesis", "row"], sort=False)
    table = losses.agg(seeds="count", mean="mean", spread="std").reset_index()
    table["card"] = table["row"].map(published_log().set_index("step")["loss"])
    table["gap"] = table["mean"] - table["card"]
    table["spreads"] = table["gap"].abs() / table["spread"].fillna(table["spread"].median())
    return table


def with_best_noise(rows: pd.DataFrame, clean: str, noisy: str, wanted: Sequence[int]) -> pd.DataFrame:
    """Return how close a hypothesis comes to the card's ``wanted`` rows if the share of wrong labels is chosen for it.

    The loss is taken to be linear in that share, between the runs without noise (``clean``) and those with
    ``AUTHOR_DISAGREES`` (``noisy``). The share is the one with the least sum of squared gaps, in units of their spreads.
    The table has a line per row of the card: ``share``, ``loss``, ``card``, ``gap`` and ``spreads``.
    """
    card, rows = published_log().set_index("step")["loss"][list(wanted)], rows[list(wanted)]
    at_zero, at_full, spread = rows.loc[clean].mean(), rows.loc[noisy].mean(), rows.loc[clean].std()
    slope, missing = (at_full - at_zero) / spread, (card - at_zero) / spread
    part = float(np.clip((slope * missing).sum() / (slope**2).sum(), 0, 1))
    table = pd.DataFrame({"share": part * AUTHOR_DISAGREES, "loss": at_zero + part * (at_full - at_zero), "card": card})
    return table.assign(gap=table["loss"] - card, spreads=(table["loss"] - card).abs() / spread)


def new_head(seed: int, dimensions: int = 384, labels: int = 3) -> nn.Linear:
    """Return a head as ``SoftmaxLoss`` initialises it: 3 x 1,152, entries uniform in ±1/sqrt(1,152)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(3 * dimensions, labels).requires_grad_(False)


def cauchy_schwarz_bound(head: nn.Linear) -> float:
    """Return a floor that no embeddings can get under: the mean over the labels, in nats.

    The features x = (u, v, |u - v|) of unit vectors have length at most sqrt(6), so the logit of the right label is
    above that of another by at most sqrt(6) times the distance of their rows in the head, plus the biases' difference.
    """
    weight, bias = head.weight, head.bias
    margins = 6**0.5 * torch.cdist(weight, weight) + bias[:, None] - bias[None, :]
    return float(torch.log1p(torch.exp(-margins).fill_diagonal_(0).sum(dim=1)).mean())


def lowest_loss(head: nn.Linear, shared_premise: bool, noise: float = 0, restarts: int = 8, steps: int = 400) -> float:
    """Return the lowest mean loss (nats) that gradient descent on the embeddings themselves finds for a fixed ``head``.

    No encoder is involved: u and v are free unit vectors, one pair per label. SNLI asks more, since each premise comes
    with a hypothesis for every label: with ``shared_premise`` one u serves all labels. ``noise`` is the share of the labels
    that are one of the other two. Of several ``restarts``, the best end counts.
    """
    labels, dimensions = head.out_features, head.in_features // 3
    random = torch.Generator().manual_seed(0)
    u = torch.randn(restarts, 1 if shared_premise else labels, dimensions, generator=random).requires_grad_()
    v = torch.randn(restarts, labels, dimensions, generator=random).requires_grad_()
    target = torch.full((labels, labels), noise / (labels - 1)).fill_diagonal_(1 - noise)
    optimizer = torch.optim.Adam([u, v], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        premise, hypothesis = F.normalize(u, dim=-1).expand_as(v), F.normalize(v, dim=-1)
        logits = head(torch.cat([premise, hypothesis, (premise - hypothesis).abs()], dim=-1))
        losses = -(target * F.log_softmax(logits, dim=-1)).sum(dim=-1).mean(dim=-1)
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
        schedule.step()
    return float(losses.detach().min())
