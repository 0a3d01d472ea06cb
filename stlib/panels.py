"""Pieces to play with: a picture that follows its controls; where no widgets are alive, the picture at the start."""

import html
from collections.abc import Callable
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.core.pylabtools import print_figure
from IPython.display import display
from sentence_transformers import SentenceTransformer

from stlib.forensics import cauchy_schwarz_bound, lowest_loss, new_head
from stlib.model import NLIClassifier
from stlib.plots import BLACK, finish, new_axes

try:
    import ipywidgets
except ImportError:
    ipywidgets = None


class Panel(NamedTuple):
    """Controls (a class of ipywidgets and its arguments each), and what ``draw`` makes of their values: picture and words."""

    draw: Callable[..., tuple]
    controls: dict[str, tuple[str, dict]]

    def show(self) -> None:
        """Display the panel as the output of a cell."""
        display(self.bundle(), raw=True)

    def bundle(self) -> dict[str, str]:
        """Return the output by media type: the widget if there are any, the picture at the start, and words."""
        forms = self.forms(**{name: options["value"] for name, (_, options) in self.controls.items()})
        return {**self.live()._repr_mimebundle_(), **forms} if ipywidgets else forms

    def forms(self, **values) -> dict[str, str]:
        """Return the picture at some values of the controls, and its words, by media type."""
        picture, words = self.draw(**values)
        if isinstance(picture, str):
            return {"text/plain": words, "text/html": picture}
        picture.figure.suptitle(words)
        png = print_figure(picture.figure, bbox_inches=None, base64=True, metadata={"Software": None})
        plt.close(picture.figure)
        return {"text/plain": words, "image/png": png}

    def live(self):
        """Return one widget: the controls, a picture that follows them, and below it what an update says if it fails."""
        shown = ipywidgets.HTML()
        controls = {name: getattr(ipywidgets, kind)(**options) for name, (kind, options) in self.controls.items()}

        def update(**values) -> None:
            forms = self.forms(**values)
            words, png = html.escape(forms["text/plain"]), forms.get("image/png")
            shown.value = forms.get("text/html", f'<img alt="{words}" src="data:image/png;base64,{png}">')

        return ipywidgets.VBox([*controls.values(), shown, ipywidgets.interactive_output(update, controls)])


def sentence_pair(model: SentenceTransformer | NLIClassifier, first: str, second: str) -> Panel:
    """Return a panel to type two sentences and see their tokens and cosine; with a classifier, the NLI verdict too."""
    classifier = model if isinstance(model, NLIClassifier) else None
    encoder = classifier.encoder if classifier else model

    def draw(**given: str) -> tuple[str, str]:
        facts = {f"tokens of the {place}": " ".join(encoder.tokenizer.tokenize(text)) for place, text in given.items()}
        u, v = encoder.encode(list(given.values()), convert_to_tensor=True)
        facts["cosine"] = f"{float(encoder.similarity(u, v)):.2f}"
        if classifier:
            chances = 100 * classifier.logits_of(u[None], v[None]).softmax(dim=1)[0]
            facts["verdict"] = ", ".join(map("{} {:.0f} %".format, classifier.labels, chances.tolist()))
        rows = [f'<tr><th scope="row">{name}</th><td>{html.escape(value)}</td></tr>' for name, value in facts.items()]
        return f"<table>{''.join(rows)}</table>", "\n".join(f"{name}: {value}" for name, value in facts.items())

    names = ("premise", "hypothesis") if classifier else ("first", "second")
    style = {"continuous_update": False, "layout": {"width": "95%"}}
    one = ("Text", {"value": first, "description": names[0], **style})
    two = ("Text", {"value": second, "description": names[1], **style})
    return Panel(draw, {"first": one, "second": two})


def layers_and_pooling(scores: pd.DataFrame, pairs: int) -> Panel:
    """Return a panel to stop after fewer layers or pool in another way, and see Spearman x 100 on so many ``pairs``.

    ``scores`` has a row per number of layers, from 0, and a column per pooling; NaN where all sentences have one vector.
    """
    last = len(scores) - 1

    def draw(layer: int, pooling: str) -> tuple:
        ax = new_axes()
        ax.plot(scores, markersize=4, label=[f"{name} pooling" for name in scores])
        score = scores.loc[layer, pooling]
        ax.plot(layer, score, "o", ms=14, mfc="none", mew=2, color=BLACK, label="your choice")
        same = np.isnan(score)
        found = "all sentences have the same vector" if same else f"Spearman {score:.0f} on {pairs} pairs"
        return finish(ax, "layers that are run", "Spearman x 100"), f"{layer} layers, {pooling} pooling: {found}"

    slider = ("IntSlider", {"value": last, "min": 0, "max": last, "description": "layers"})
    choice = ("ToggleButtons", {"value": "mean", "options": list(scores), "description": "pooling"})
    return Panel(draw, {"layer": slider, "pooling": choice})


def head_scale(plateau: float, seed: int = 42) -> Panel:
    """Return a panel to scale the weights of a frozen head of that ``seed``, and see how low the loss can get with it."""
    found = {}
    for scale in (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0):
        head = new_head(seed)
        head.weight.mul_(scale)
        found[scale] = cauchy_schwarz_bound(head), lowest_loss(head, shared_premise=True, restarts=2, steps=200)

    def draw(scale: float) -> tuple:
        ax = new_axes()
        names = ["no embeddings get below", "lowest that descent finds"]
        ax.semilogx(list(found), list(found.values()), base=2, label=names)
        ax.axhline(np.log(3), color=BLACK, lw=1, ls=":", label="guessing, ln 3")
        ax.axhline(plateau, color=BLACK, lw=1, ls="-.", label="the card's plateau")
        ax.plot(scale, found[scale][1], "o", ms=14, mfc="none", mew=2, color=BLACK, label="your head")
        ax.set_xticks(list(found), [f"{factor:g}" for factor in found])
        words = f"weights times {scale:.2g}: the loss gets down to {found[scale][1]:.1f} at best"
        return finish(ax, "scale of the head's weights (1: as it is initialised)", "loss (nats)", ylim=(0, None)), words

    return Panel(draw, {"scale": ("SelectionSlider", {"value": 1.0, "options": list(found), "description": "scale"})})
