"""Who trained the published card? Hypotheses as recipes, their recorded runs, and what a frozen head allows at best."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from stlib import records
from stlib.cards import published_log
from stlib.recipes import CARD, CARD_AS_PRINTED, FIT_DEFAULTS, Recipe

ROW = 500  # steps that one row of the card's log averages over


@dataclass(frozen=True)
class Hypothesis:
    """One way in which the published model may have been trained.

    Attributes:
        name: what the records call it.
        recipe: how to train.
        steps: how many steps of it are run; some recorded runs are shorter, and say so.
        noise: share of the training labels that are replaced by one of the other two, at random.
    """

    name: str
    recipe: Recipe
    steps: int
    noise: float = 0.0


def variant(recipe: Recipe, name: str, about: str, **changes) -> Recipe:
    return replace(recipe, name=name, about=about, **changes)


TRAINED = variant(
    CARD, "card_head_trained", "the card's recipe, but the head is given to the optimizer", train_head=True
)

# Bowman et al. 2015 (arXiv 1508.05326), table 2: of the pairs that five people labelled, 6.8 % got another gold label
# than their author's and 2.0 % got none. Training pairs carry their author's label; validation and test pairs the gold
# label. Of those with a gold label, the author's is another one in 6.8 of 98.0.
AUTHOR_DISAGREES = 0.068 / 0.980

HYPOTHESES = (
    Hypothesis("card", CARD, 1_500),
    Hypothesis("as printed", CARD_AS_PRINTED, 1_000),
    Hypothesis("head trained", TRAINED, 1_000),
    Hypothesis(
        "warm-up 100", variant(CARD, "card_warmup_100", "the card's recipe, warm-up over 100 steps", warmup_steps=100), 1_000
    ),
    Hypothesis("warm-up 10,000", FIT_DEFAULTS, 500),
    Hypothesis("card, noisy labels", CARD, 1_500, AUTHOR_DISAGREES),
    Hypothesis("head trained, noisy labels", TRAINED, 1_500, AUTHOR_DISAGREES),
    Hypothesis(
        "1e-5 over 500",
        variant(CARD, "card_1e5_500", "the card's slope, half its peak", learning_rate=1e-5, warmup_steps=500),
        1_500,
    ),
    Hypothesis(
        "4e-5 over 2,000",
        variant(CARD, "card_4e5_2000", "the card's slope, twice its peak", learning_rate=4e-5, warmup_steps=2_000),
        1_500,
    ),
)  # fmt: skip


def perturb(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """``labels`` (0, 1 or 2) with a random ``share`` of them replaced by one of the other two."""
    random = np.random.default_rng(seed)
    chosen = random.choice(len(labels), round(share * len(labels)), replace=False)
    changed = labels.copy()
    changed[chosen] = (changed[chosen] + random.integers(1, 3, len(chosen))) % 3
    return changed


def record() -> dict:
    """The recorded runs of ``research/forensics.py``."""
    return records.load("forensics")


def recorded(hypothesis: str | None = None) -> list[dict]:
    """The recorded runs of one hypothesis, or of all."""
    return [run for run in record()["runs"] if hypothesis in (None, run["hypothesis"])]


def cost_record() -> dict:
    """The recorded runs of ``research/head_cost.py``."""
    return records.load("head_cost")


COST_NAMES = {
    "final_loss": "loss, last epoch",
    "accuracy": "NLI accuracy",
    "refit_accuracy": "NLI accuracy, head refitted",
    "stsbenchmark-sts": "STS-B",
    "sts13-sts": "STS13",
    "sts14-sts": "STS14",
    "sts15-sts": "STS15",
}


def cost_table(found: dict) -> pd.DataFrame:
    """What a frozen head cost: one line a measure and arm.

    Returns:
        ``measure``, ``arm``, ``seeds``, ``mean`` and ``spread`` (standard deviation over the seeds). The base model has
        no head and no loss, and one value of the rest.
    """
    runs = pd.DataFrame([*found["runs"], {"arm": "base model", **found["base"]}])
    long = runs.melt(id_vars="arm", value_vars=list(COST_NAMES), var_name="measure").dropna(subset="value")
    table = long.groupby(["measure", "arm"], sort=False)["value"].agg(["count", "mean", "std"]).reset_index()
    table["measure"] = table["measure"].map(COST_NAMES)
    return table.rename(columns={"count": "seeds", "std": "spread"})


def with_spread(table: pd.DataFrame) -> pd.DataFrame:
    """``cost_table`` as text: a line a measure, a column an arm, each cell ``mean ± spread``."""
    cells = [
        f"{row.mean:.{digits}f}" + (f" ± {row.spread:.{digits}f}" if row.seeds > 1 else "")
        for row, digits in ((row, 3 if "loss" in row.measure else 1) for row in table.itertuples())
    ]
    shown = table.assign(cell=cells).pivot(index="measure", columns="arm", values="cell")
    return shown.reindex(index=table["measure"].unique(), columns=table["arm"].unique()).fillna("-")


def curves(runs: list[dict]) -> pd.DataFrame:
    """Loss curves of recorded runs: ``hypothesis``, ``seed``, ``step`` and ``loss``, the mean since the row before."""
    rows = [(run["hypothesis"], run["seed"], int(step), loss) for run in runs for step, loss in run["loss"].items()]
    return pd.DataFrame(rows, columns=["hypothesis", "seed", "step", "loss"])


def card_rows(curve: pd.DataFrame) -> pd.DataFrame:
    """Mean loss over each 500 steps, as the card logs it: one line a run, one column a row of the card.

    Rows that a run did not complete are NaN.
    """
    last = -(-curve["step"] // ROW) * ROW
    table = curve.assign(row=last).pivot_table(index=["hypothesis", "seed"], columns="row", values="loss", sort=False)
    reached = curve.groupby(["hypothesis", "seed"])["step"].max()
    return table.apply(lambda column: column.where(reached.reindex(table.index) >= column.name))


def verdicts(rows: pd.DataFrame) -> pd.DataFrame:
    """How far each hypothesis lies from the card, row by row.

    Args:
        rows: what ``card_rows`` returns.

    Returns:
        One line for each hypothesis and row of the card: ``seeds``, ``mean`` and ``spread`` (standard deviation over
        the seeds), ``card``, ``gap`` (mean less card) and ``spreads`` (the gap in units of the spread; for a
        hypothesis with one seed, of the median spread of the others).
    """
    card = published_log().set_index("step")["loss"]
    long = rows.stack().rename("loss").reset_index()
    table = long.groupby(["hypothesis", "row"], sort=False)["loss"].agg(["count", "mean", "std"]).reset_index()
    table = table.rename(columns={"count": "seeds", "std": "spread"})
    table["card"] = table["row"].map(card)
    table["gap"] = table["mean"] - table["card"]
    table["spreads"] = table["gap"].abs() / table["spread"].fillna(table["spread"].median())
    return table


def with_best_noise(rows: pd.DataFrame, clean: str, noisy: str, wanted: Sequence[int]) -> pd.DataFrame:
    """The closest that a hypothesis comes to the card when the share of wrong labels may be chosen for it.

    The loss is taken to be linear in that share, between the runs without noise and those with ``AUTHOR_DISAGREES``;
    the share, from 0 up to it, is the one with the least sum of squared gaps, each in units of its spread.

    Args:
        rows: what ``card_rows`` returns.
        clean, noisy: the names of the hypothesis without and with noise.
        wanted: rows of the card to fit, by their last step.

    Returns:
        One line a row of the card: ``share``, ``loss``, ``card``, ``gap`` and ``spreads``.
    """
    card = published_log().set_index("step")["loss"][list(wanted)]
    at_zero, at_full = rows.loc[clean, list(wanted)].mean(), rows.loc[noisy, list(wanted)].mean()
    spread = rows.loc[clean, list(wanted)].std()
    slope, missing = (at_full - at_zero) / spread, (card - at_zero) / spread
    part = float(np.clip((slope * missing).sum() / (slope**2).sum(), 0, 1))
    table = pd.DataFrame({"share": part * AUTHOR_DISAGREES, "loss": at_zero + part * (at_full - at_zero), "card": card})
    table["gap"] = table["loss"] - table["card"]
    table["spreads"] = table["gap"].abs() / spread
    return table


def new_head(seed: int, dimensions: int = 384, labels: int = 3) -> nn.Linear:
    """A head as ``SoftmaxLoss`` initialises it: 3 x 1,152, entries uniform in ±1/sqrt(1,152)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(3 * dimensions, labels).requires_grad_(False)


def cauchy_schwarz_bound(head: nn.Linear) -> float:
    """A floor that no embeddings can get under: the mean over the labels, in nats.

    The features x = (u, v, |u - v|) of unit vectors have length at most sqrt(6), so the logit of the right label is
    above that of another by at most sqrt(6) times the distance of their rows in the head, plus the biases' difference.
    """
    weight, bias = head.weight, head.bias
    margins = 6**0.5 * torch.cdist(weight, weight) + bias[:, None] - bias[None, :]
    others = ~torch.eye(len(bias), dtype=torch.bool)
    return float(torch.log1p((torch.exp(-margins) * others).sum(dim=1)).mean())


def lowest_loss(
    head: nn.Linear, shared_premise: bool, noise: float = 0.0, restarts: int = 8, steps: int = 400, seed: int = 0
) -> float:
    """The lowest mean cross-entropy (nats) that gradient descent on the embeddings themselves finds for a fixed head.

    No encoder is involved: u and v are free unit vectors, one pair a label. SNLI asks more, since each premise comes
    with a hypothesis for every label: with ``shared_premise`` one u serves all labels.

    Args:
        head: maps (u, v, |u - v|) to one logit a label.
        shared_premise: whether the labels share u.
        noise: share of the labels that are one of the other two; the loss of the right answer includes them.
        restarts: random starts; the best end counts.
    """
    labels, dimensions = head.out_features, head.in_features // 3
    random = torch.Generator().manual_seed(seed)
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
