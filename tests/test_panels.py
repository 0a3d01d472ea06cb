"""The panels: what they show at the start, that the picture follows the controls, and that they do without widgets."""

import numpy as np
import pandas as pd
import pytest

from stlib import panels
from stlib.forensics import new_head
from stlib.model import NLIClassifier
from stlib.panels import head_scale, layers_and_pooling, sentence_pair

WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(scope="module")
def layers():
    scores = pd.DataFrame({"mean": [50.0, 60, 70, 71, 72, 73, 80], "[CLS]": [np.nan, 10, 20, 30, 40, 50, 60]})
    return layers_and_pooling(scores, 210)


def parts(panel):
    """The live controls and picture."""
    *controls, picture, errors = panel.live().children
    assert not errors.outputs
    return controls, picture


def test_two_sentences(base):
    panel = sentence_pair(base, "A man sleeps.", "A <man> snores.")
    bundle = panel.bundle()
    u, v = base.encode(["A man sleeps.", "A <man> snores."])
    assert f"cosine: {u @ v:.2f}" in bundle["text/plain"]
    assert "<td>a &lt; man &gt; s ##nor ##es .</td>" in bundle["text/html"]
    assert "verdict" not in bundle["text/html"]
    (first, _), picture = parts(panel)
    first.value = "A <man> snores."
    assert "<td>1.00</td>" in picture.value


def test_the_verdict_is_the_classifiers(base):
    classifier = NLIClassifier(base, new_head(1))
    chances = classifier.predict_proba(["A man sleeps."], ["A man rests."])[0]
    words = sentence_pair(classifier, "A man sleeps.", "A man rests.").bundle()["text/plain"]
    assert f"entailment {100 * chances[0]:.0f} %" in words


def test_layers_and_pooling_follow_the_controls(layers):
    (slider, choice), picture = parts(layers)
    before = picture.value
    assert 'alt="6 layers, mean pooling: Spearman 80 on 210 pairs"' in before
    slider.value = 2
    choice.value = "[CLS]"
    assert picture.value != before
    assert 'alt="2 layers, [CLS] pooling: Spearman 20 on 210 pairs"' in picture.value
    slider.value = 0
    assert 'alt="0 layers, [CLS] pooling: all sentences have the same vector"' in picture.value


def test_the_scale_moves_the_floor(monkeypatch):
    """The lowest loss is here the largest weight, so that it grows with the scale."""
    monkeypatch.setattr(panels, "lowest_loss", lambda head, **_: float(head.weight.abs().max()))
    (slider,), picture = parts(head_scale(plateau=0.907))
    before = picture.value
    largest = float(new_head(42).weight.abs().max())
    slider.value = 16
    assert f"weights times 16: the loss gets down to {16 * largest:.1f} at best" in picture.value
    assert picture.value != before


def test_without_widgets_the_picture_is_there(layers, monkeypatch):
    assert WIDGET in layers.bundle()

    monkeypatch.setattr(panels, "ipywidgets", None)
    assert set(layers.bundle()) == {"text/plain", "image/png"}
