"""Recipes: everything that decides how a run trains, one frozen dataclass each, and the optimizer and schedule they mean."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from stlib.errors import UsageError

# The names of parameters that weight decay leaves alone, as in the library's legacy `fit` (sentence-transformers 4.1.0).
NO_DECAY = ("bias", "LayerNorm.bias", "LayerNorm.weight")


@dataclass(frozen=True)
class Recipe:
    """How to train the encoder, and with SoftmaxLoss its NLI head.

    Attributes:
        name: what the command line calls it.
        about: what it stands for, in a sentence.
        learning_rate: peak of AdamW for the encoder.
        warmup_steps: steps over which the rate rises from zero to its peak.
        schedule_steps: the step at which the rate reaches zero again; None means the last step of the run. A recipe
            that names it stands for a run of that length: fewer steps are the start of that run (but see ``fitted_to``).
        weight_decay: for all weights but biases and LayerNorm.
        max_grad_norm: the encoder's gradient is clipped to this norm.
        train_head: whether the classifier head is given to the optimizer.
        head_learning_rate: its own peak; None means the encoder's.
        head_gain: the head's random initial weights are multiplied by this. Unit-norm embeddings give logits that
            differ by less than one; a larger head lets the loss fall from the first step.
        dropout: in the encoder; the base model's own is 0.1.
        short_dropout: the same for a run of hundreds of steps instead of tens of thousands (profiles ``mini`` and
            ``small``). None keeps the long run's.
        loss: ``softmax`` (SoftmaxLoss), ``mnrl`` (MultipleNegativesRankingLoss with contradictions as hard negatives),
            ``cosent``, ``angle`` or ``cosine`` (CosineSimilarityLoss). What rows they take: ``losses.training_rows``.
        data: ``nli``, or an STS task, whose training pairs then take the place of the NLI pairs.
        multiply: the head of SoftmaxLoss also sees u * v.
        normalize: whether the encoder has its Normalize module. Without it, lengths of embeddings are free.
        scale: of the cosines in ``mnrl``, ``cosent`` and ``angle``; the reciprocal of a temperature.
        matryoshka: numbers of leading dimensions that the loss is computed on too, all 384 among them; empty: only on
            all.
        short: made for a run of hundreds of steps. Its rate is used as it is at every profile; warm-up over a tenth of
            the run, decay to zero at its end.
        epochs: passes over the rows; None means the profile's own.
        batch_size: rows a step; None means the profile's own.
        together: whether pairs with one premise stay side by side, in the same batch, while the premises are shuffled.
            The hypotheses of a premise are then told apart in the same step.
    """

    name: str
    about: str
    learning_rate: float = 2e-5
    warmup_steps: int = 1_000
    schedule_steps: int | None = None
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    train_head: bool = False
    head_learning_rate: float | None = None
    head_gain: float = 1.0
    dropout: float = 0.1
    short_dropout: float | None = None
    loss: str = "softmax"
    data: str = "nli"
    multiply: bool = False
    normalize: bool = True
    scale: float = 20.0
    matryoshka: tuple[int, ...] = ()
    short: bool = False
    epochs: int | None = None
    batch_size: int | None = None
    together: bool = False

    def fitted_to(self, total_steps: int, rate_scale: float) -> "Recipe":
        """The recipe for a short run: warm-up over a tenth of it, decay to zero at its end, a higher learning rate."""
        rate_scale = 1 if self.short else rate_scale
        return replace(
            self,
            warmup_steps=total_steps // 10 if self.warmup_steps else 0,
            schedule_steps=total_steps,
            learning_rate=round(self.learning_rate * rate_scale, 10),
            dropout=self.dropout if self.short_dropout is None else self.short_dropout,
        )

    def to_dict(self) -> dict:
        """As JSON would give it back."""
        return {**asdict(self), "matryoshka": list(self.matryoshka)}


CARD = Recipe(
    name="card",
    about="what really trained the published model: the legacy fit of 4.1.0, which never gave the head to the optimizer",
    schedule_steps=68_668,  # 4 x (549,367 // 32); 68,672 steps are run, because the last, smaller batches train too
)

CARD_AS_PRINTED = Recipe(
    name="card_as_printed",
    about="the settings that the published card prints",
    learning_rate=5e-5,
    warmup_steps=0,
    weight_decay=0.0,
    train_head=True,
    schedule_steps=68_672,  # 4 x 17,168: the library's trainer counts the smaller batches too
)

FIT_DEFAULTS = Recipe(
    name="fit_defaults",
    about="the legacy fit of 4.1.0 with all its defaults: warm-up over 10,000 steps, head frozen",
    warmup_steps=10_000,
    schedule_steps=68_668,
)

TRAINED_HEAD = Recipe(
    name="trained_head",
    about="our SoftmaxLoss recipe: the head learns too, faster than the encoder, and starts large enough to matter",
    train_head=True,
    head_learning_rate=4e-2,
    head_gain=8.0,
    short_dropout=0.0,
    together=True,
)

# ---- the contest of notebook 08: the same NLI pairs, runs of hundreds of steps ------------------------------------------


def contender(name: str, about: str, **changes) -> Recipe:
    """A recipe for a short run: four passes over its rows in batches of 32, unless ``changes`` say otherwise."""
    return Recipe(name=name, about=about, **{"short": True, "epochs": 4, "batch_size": 32, **changes})


FAST_HEAD = {"train_head": True, "head_learning_rate": 4e-2, "head_gain": 8.0}

SOFTMAX_FROZEN = contender("softmax_frozen", "SoftmaxLoss with a frozen head, as the card was trained")
SOFTMAX_TRAINED = contender("softmax_trained", "SoftmaxLoss, the head trained at the encoder's rate", train_head=True)
SOFTMAX_FAST = contender("softmax_fast", "SoftmaxLoss, a head eight times as large at the rate 0.04", **FAST_HEAD)
SOFTMAX_PRODUCT = contender("softmax_product", "the same, and the head also sees u * v", multiply=True, **FAST_HEAD)
SOFTMAX_FREE = contender(
    "softmax_free", "SoftmaxLoss as in the Sentence-BERT paper: no Normalize, the head trained at the encoder's rate",
    normalize=False, train_head=True,
)  # fmt: skip
COSENT = contender("cosent", "CoSENT on the scores 1, 0.5 and 0 of the labels", loss="cosent")
ANGLE = contender("angle", "AnglE on the same scores", loss="angle")

RANKING_LONG = contender(
    "ranking_long", "MultipleNegativesRankingLoss, contradictions as hard negatives, eight passes at a usual rate",
    loss="mnrl", epochs=8, batch_size=64,
)  # fmt: skip
# Chosen on validation pairs: one quick pass without dropout does more good than a long one.
RANKING = contender(
    "ranking", "the same loss, one quick pass without dropout",
    loss="mnrl", epochs=1, batch_size=64, learning_rate=2e-4, dropout=0.0,
)  # fmt: skip
RANKING_MATRYOSHKA = replace(
    RANKING, name="ranking_matryoshka", about="ranking, also on the first 256, 128, 64 and 32 dimensions",
    matryoshka=(384, 256, 128, 64, 32),
)  # fmt: skip
STS_STAGE = contender(
    "sts_stage", "CosineSimilarityLoss on the training pairs of STS-B", loss="cosine", data="stsbenchmark-sts"
)

CONTENDERS = (
    SOFTMAX_FROZEN,
    SOFTMAX_TRAINED,
    SOFTMAX_FREE,
    SOFTMAX_FAST,
    SOFTMAX_PRODUCT,
    COSENT,
    RANKING_LONG,
    RANKING,
    RANKING_MATRYOSHKA,
)

RECIPES = {
    recipe.name: recipe for recipe in (CARD, CARD_AS_PRINTED, FIT_DEFAULTS, TRAINED_HEAD, *CONTENDERS, ANGLE, STS_STAGE)
}


def get_recipe(name: str | Recipe) -> Recipe:
    """The recipe called ``name`` (a Recipe is returned as it is). Raises UsageError for an unknown name."""
    if isinstance(name, Recipe):
        return name
    if name not in RECIPES:
        raise UsageError(f"there is no recipe {name!r}: choose one of {', '.join(RECIPES)}")
    return RECIPES[name]


def linear_schedule(warmup_steps: int, schedule_steps: int) -> Callable[[int], float]:
    """The factor on the learning rate at a step, counted from 0: up over the warm-up, then down to 0 in a straight line.

    The same line as ``transformers.get_linear_schedule_with_warmup`` and the legacy ``WarmupLinear``.
    """

    def factor(step: int) -> float:
        if step < warmup_steps:
            return step / max(1, warmup_steps)
        return max(0.0, (schedule_steps - step) / max(1, schedule_steps - warmup_steps))

    return factor


def parameter_groups(recipe: Recipe, encoder: nn.Module, head: nn.Module | None) -> list[dict]:
    """AdamW's groups: encoder weights with decay, encoder biases and LayerNorm without, then the head if it is trained."""
    named = [(name, parameter) for name, parameter in encoder.named_parameters() if parameter.requires_grad]
    exempt = {name for name, _ in named if any(part in name for part in NO_DECAY)}
    groups = [
        {"name": "encoder", "params": [p for n, p in named if n not in exempt], "weight_decay": recipe.weight_decay},
        {"name": "encoder, no decay", "params": [p for n, p in named if n in exempt], "weight_decay": 0.0},
    ]
    if recipe.train_head and head is not None:
        rate = recipe.head_learning_rate or recipe.learning_rate
        groups.append({"name": "head", "params": list(head.parameters()), "weight_decay": 0.0, "lr": rate})
    return groups


def make_optimizer(
    recipe: Recipe, encoder: nn.Module, head: nn.Module | None, total_steps: int
) -> tuple[AdamW, LambdaLR]:
    """AdamW (betas 0.9 and 0.999, eps 1e-8) and the linear schedule that ``recipe`` means for a run of ``total_steps``."""
    groups = parameter_groups(recipe, encoder, head)
    optimizer = AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.999), eps=1e-8, fused=True)
    schedule = linear_schedule(recipe.warmup_steps, recipe.schedule_steps or total_steps)
    return optimizer, LambdaLR(optimizer, schedule)
