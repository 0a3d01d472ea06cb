"""Who trained the published card? Hypotheses as recipes, their recorded runs, and how low a frozen head gets."""

import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from stlib import records
from stlib.recipes import CARD, CARD_AS_PRINTED, FIT_DEFAULTS

HYPOTHESES = {
    "card": CARD,
    "as printed": CARD_AS_PRINTED,
    "head trained": CARD.but("card_head_trained", "the card's recipe, but the head is given to the optimizer", train_head=True),
    "warm-up 100": CARD.but("card_warmup_100", "the card's recipe, warm-up over 100 steps", warmup_steps=100),
    "warm-up 10,000": FIT_DEFAULTS,
    "1e-5 over 500": CARD.but("card_1e5_500", "the card's slope, half its peak", learning_rate=1e-5, warmup_steps=500),
    "4e-5 over 2,000": CARD.but("card_4e5_2000", "the card's slope, twice its peak", learning_rate=4e-5, warmup_steps=2_000),
}  # fmt: skip


def recorded(hypothesis: str | None = None, record: str = "forensics", nli_split: str | None = None) -> list[dict]:
    """Return the runs of a record, by default those of ``research/forensics.py``: of one hypothesis or split, or all."""
    wanted = {"hypothesis": hypothesis, "nli_split": nli_split}
    return [run for run in records.load(record)["runs"] if all(v in (None, run.get(key)) for key, v in wanted.items())]


def curves(runs: list[dict]) -> pd.DataFrame:
    """Return the loss curves of recorded runs, with the mean ``loss`` since the row before.

    Columns: ``nli_split`` (the pairs), ``hypothesis``, ``seed``, ``step``, ``loss``.
    """
    about = ["nli_split", "hypothesis", "seed"]
    rows = [(*(run[key] for key in about), int(step), loss) for run in runs for step, loss in run["loss"].items()]
    return pd.DataFrame(rows, columns=[*about, "step", "loss"])


def card_rows(curve: pd.DataFrame) -> pd.DataFrame:
    """Return the mean loss over each 500 steps, as the card logs it: a line per run, a column per row (NaN if not complete)."""
    last = -(-curve["step"] // 500) * 500
    about = ["nli_split", "hypothesis", "seed"]
    table = curve.assign(row=last).pivot_table(index=about, columns="row", values="loss", sort=False)
    reached = curve.groupby(about)["step"].max()
    return table.apply(lambda column: column.where(reached.reindex(table.index) >= column.name))


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


def lowest_loss(head: nn.Linear, shared_premise: bool, restarts: int = 8, steps: int = 200) -> float:
    """Return the lowest mean loss (nats) that gradient descent on the embeddings themselves finds for a fixed ``head``.

    No encoder is involved: u and v are free unit vectors, one pair per label. SNLI asks more, since each premise comes
    with a hypothesis for every label: with ``shared_premise`` one u serves all labels. Of several ``restarts``, the best
    end counts.
    """
    labels, dimensions = head.out_features, head.in_features // 3
    random = torch.Generator().manual_seed(0)
    u = torch.randn(restarts, 1 if shared_premise else labels, dimensions, generator=random).requires_grad_()
    v = torch.randn(restarts, labels, dimensions, generator=random).requires_grad_()
    optimizer = torch.optim.Adam([u, v], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        premise, hypothesis = F.normalize(u, dim=-1).expand_as(v), F.normalize(v, dim=-1)
        logits = head(torch.cat([premise, hypothesis, (premise - hypothesis).abs()], dim=-1))
        losses = -F.log_softmax(logits, dim=-1).diagonal(dim1=1, dim2=2).mean(dim=-1)  # pair i has label i
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
        schedule.step()
    return float(losses.detach().min())
