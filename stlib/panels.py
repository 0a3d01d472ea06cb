"""Pieces to play with: controls above a picture that follows them, and the picture alone where there are no widgets.

A panel is shown in two forms at once. Where widgets are alive (JupyterLab, Colab), you get the controls; anywhere else
(the page of a repository, the course's site, a kernel without ipywidgets), the same picture at the values it starts with.
"""

import base64
import html
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer

from stlib.forensics import cauchy_schwarz_bound, lowest_loss, new_head
from stlib.model import NLIClassifier
from stlib.plots.drawing import BLACK, BLUE, ORANGE, new_axes

POOLING = ("mean", "[CLS]", "max")


@dataclass(frozen=True)
class Slider:
    """A number from ``low`` to ``high``; on a logarithmic scale, these are powers of 2."""

    label: str
    low: float
    high: float
    step: float
    value: float
    logarithmic: bool = False

    def widget(self):
        import ipywidgets

        if self.logarithmic:
            return ipywidgets.FloatLogSlider(
                value=self.value, base=2, min=self.low, max=self.high, step=self.step, description=self.label
            )
        kind = ipywidgets.IntSlider if isinstance(self.step, int) else ipywidgets.FloatSlider
        return kind(value=self.value, min=self.low, max=self.high, step=self.step, description=self.label)


@dataclass(frozen=True)
class Choice:
    """One of several words."""

    label: str
    options: tuple[str, ...]
    value: str

    def widget(self):
        import ipywidgets

        return ipywidgets.ToggleButtons(options=self.options, value=self.value, description=self.label)


@dataclass(frozen=True)
class Line:
    """A line of text to type."""

    label: str
    value: str

    def widget(self):
        import ipywidgets

        layout = ipywidgets.Layout(width="95%")
        return ipywidgets.Text(value=self.value, description=self.label, continuous_update=False, layout=layout)


class Panel:
    """Controls, and what ``draw`` makes of their values.

    Args:
        draw: takes a keyword a control, and returns axes of matplotlib or a piece of HTML.
        controls: by keyword.
        describe: takes the same keywords, and returns the picture in words, for those who do not see it.
    """

    def __init__(self, draw: Callable, controls: dict[str, Slider | Choice | Line], describe: Callable[..., str]):
        self.draw, self.controls, self.describe = draw, controls, describe

    def show(self) -> None:
        """Display the panel as the output of a cell."""
        from IPython.display import display

        display(self.bundle(), raw=True)

    def bundle(self) -> dict[str, str]:
        """The output in every form: widget where there is one, picture, and words."""
        values = {name: control.value for name, control in self.controls.items()}
        drawn = self.draw(**values)
        forms = {"text/plain": self.describe(**values)}
        if isinstance(drawn, Axes):
            forms["image/png"] = base64.b64encode(png(drawn)).decode()
        else:
            forms["text/html"] = drawn
        box = self.live()
        return forms if box is None else {**box._repr_mimebundle_(), **forms}

    def live(self):
        """The controls and a picture that follows them, or None where there are no widgets."""
        try:
            import ipywidgets
        except ImportError:
            return None
        picture = ipywidgets.HTML()
        controls = {name: control.widget() for name, control in self.controls.items()}

        def update(_=None) -> None:
            values = {name: control.value for name, control in controls.items()}
            drawn = self.draw(**values)
            picture.value = as_html(drawn, self.describe(**values)) if isinstance(drawn, Axes) else drawn

        for control in controls.values():
            control.observe(update, names="value")
        update()
        return ipywidgets.VBox([*controls.values(), picture])


def png(axes: Axes) -> bytes:
    """The figure of ``axes`` as a PNG file; the figure is closed."""
    file = io.BytesIO()
    axes.figure.savefig(file, format="png", metadata={"Software": None})
    plt.close(axes.figure)
    return file.getvalue()


def as_html(axes: Axes, words: str) -> str:
    return f'<img alt="{html.escape(words)}" src="data:image/png;base64,{base64.b64encode(png(axes)).decode()}">'


def sentence_pair(model: SentenceTransformer | NLIClassifier, first: str, second: str) -> Panel:
    """Type two sentences and see their tokens and their cosine; with a classifier, the NLI verdict too."""
    classifier = model if isinstance(model, NLIClassifier) else None
    encoder = classifier.encoder if classifier else model

    def facts(first: str, second: str) -> dict[str, str]:
        u, v = encoder.encode([first, second], convert_to_tensor=True)
        found = {
            "tokens of the first": " ".join(encoder.tokenizer.tokenize(first)),
            "tokens of the second": " ".join(encoder.tokenizer.tokenize(second)),
            "cosine": f"{float(encoder.similarity(u, v)):.2f}",
        }
        if classifier:
            chances = classifier.logits_of(u[None], v[None]).softmax(dim=1)[0].tolist()
            found["verdict"] = ", ".join(
                f"{label} {100 * chance:.0f} %" for label, chance in zip(classifier.labels, chances, strict=True)
            )
        return found

    def draw(first: str, second: str) -> str:
        rows = "".join(
            f'<tr><th scope="row">{name}</th><td>{html.escape(value)}</td></tr>'
            for name, value in facts(first, second).items()
        )
        return f"<table>{rows}</table>"

    def describe(first: str, second: str) -> str:
        return "\n".join(f"{name}: {value}" for name, value in facts(first, second).items())

    names = ("premise", "hypothesis") if classifier else ("first", "second")
    return Panel(draw, {"first": Line(names[0], first), "second": Line(names[1], second)}, describe)


def layers_and_pooling(model: SentenceTransformer, first: Sequence[str], second: Sequence[str], gold) -> Panel:
    """Choose after how many layers to stop, and how to pool, and see what that does to Spearman's correlation.

    Args:
        first, second: the sentences of n pairs.
        gold: their gold scores, shape (n,).
    """
    layers = model[0].auto_model.config.num_hidden_layers
    pooled = pooled_layers(model, [*first, *second])
    scores = {
        pooling: [correlation(cosines(pooled[pooling][layer]), gold) for layer in range(layers + 1)]
        for pooling in POOLING
    }

    def draw(layer: int, pooling: str) -> Axes:
        ax = new_axes(None)
        for name, style, color in zip(POOLING, ("-", "--", ":"), (BLUE, ORANGE, BLACK), strict=True):
            ax.plot(range(layers + 1), scores[name], style, color=color, marker=".", label=name)
        ax.plot(layer, scores[pooling][layer], "o", ms=14, mfc="none", mew=2, color=BLACK, label="your choice")
        ax.set(xlabel="layers that are run", ylabel="Spearman x 100", title=describe(layer, pooling))
        ax.legend(title="pooling")
        return ax

    def describe(layer: int, pooling: str) -> str:
        if np.isnan(scores[pooling][layer]):
            return f"{layer} layers, {pooling} pooling: all sentences have the same vector"
        return f"{layer} layers, {pooling} pooling: Spearman {scores[pooling][layer]:.0f} on {len(gold)} pairs"

    return Panel(
        draw,
        {"layer": Slider("layers", 0, layers, 1, layers), "pooling": Choice("pooling", POOLING, "mean")},
        describe,
    )


def correlation(cosines: np.ndarray, gold) -> float:
    """Spearman x 100, or NaN where the cosines are all the same: before the first layer, [CLS] knows no sentence."""
    return 100 * spearmanr(cosines, gold).statistic if np.ptp(cosines) > 1e-9 else float("nan")


def pooled_layers(model: SentenceTransformer, sentences: Sequence[str]) -> dict[str, np.ndarray]:
    """Embeddings by pooling, each of shape (layers + 1, n, d): layer 0 is what enters the first layer."""
    features = {
        name: value.to(model.device)
        for name, value in model.preprocess(list(sentences)).items()
        if hasattr(value, "to")
    }
    with torch.no_grad():
        states = torch.stack(
            model[0]
            .auto_model(
                input_ids=features["input_ids"], attention_mask=features["attention_mask"], output_hidden_states=True
            )
            .hidden_states
        )
    mask = features["attention_mask"][None, :, :, None].bool()
    return {
        "mean": ((states * mask).sum(2) / mask.sum(2)).cpu().numpy(),
        "[CLS]": states[:, :, 0].cpu().numpy(),
        "max": states.masked_fill(~mask, -torch.inf).amax(2).cpu().numpy(),
    }


def cosines(both: np.ndarray) -> np.ndarray:
    """The cosine of each pair: row i of the first half of ``both`` (2n, d) and row i of the second."""
    both = both.astype(
        np.float64
    )  # in the middle layers the [CLS] vectors of all sentences are the same to five digits
    u, v = np.split(both / np.linalg.norm(both, axis=1, keepdims=True), 2)
    return (u * v).sum(axis=1)


def head_scale(seed: int = 42, plateau: float | None = None) -> Panel:
    """Drag the scale of a frozen head's weights, and see how low the loss can get with it.

    Args:
        seed: of the head.
        plateau: a loss to draw as a line, such as the last of the published card.
    """
    scales = 2.0 ** np.arange(-2, 5)
    proof, found = np.array([floors(seed, scale) for scale in scales]).T

    def at(scale: float) -> float:
        return float(np.interp(np.log2(scale), np.log2(scales), found))

    def draw(scale: float) -> Axes:
        ax = new_axes(None)
        ax.plot(scales, found, color=BLUE, marker=".", label="lowest found, one premise for three labels")
        ax.plot(scales, proof, "--", color=ORANGE, label="no embeddings get below")
        ax.axhline(np.log(3), color=BLACK, lw=1, ls=":", label="guessing, ln 3")
        if plateau is not None:
            ax.axhline(plateau, color=BLACK, lw=1, ls="-.", label="the card's last loss")
        ax.plot(scale, at(scale), "o", ms=12, color=BLUE, mec=BLACK, label="your head")
        ax.set_xscale("log", base=2)
        ax.set(
            xlabel="scale of the head's weights (1: as it is initialised)", ylabel="loss (nats)", title=describe(scale)
        )
        ax.set_ylim(bottom=0)
        ax.legend(fontsize=9)
        return ax

    def describe(scale: float) -> str:
        return f"weights times {scale:.2g}: the loss gets down to {at(scale):.1f} at best"

    return Panel(draw, {"scale": Slider("scale", -2, 4, 0.25, 1.0, logarithmic=True)}, describe)


def floors(seed: int, scale: float) -> tuple[float, float]:
    """For the head of that seed with its weights times ``scale``: the proven bound, and the lowest loss that descent finds."""
    head = new_head(seed)
    with torch.no_grad():
        head.weight.mul_(scale)
    return cauchy_schwarz_bound(head), lowest_loss(head, shared_premise=True, restarts=2, steps=200)
