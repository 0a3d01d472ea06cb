"""The published card as data; where the card itself is at hand, field by field against its text."""

import re

import pytest

from stlib.base_model import MODEL_ID, REVISION
from stlib.card.published import baselines, published_card, published_log
from tests.conftest import REAL_DATA

CARD = REAL_DATA.parent / "card" / "published_model_card.md"


def test_the_log_has_137_rows_500_steps_apart():
    log = published_log()
    assert log["step"].tolist() == list(range(500, 68_501, 500))
    assert (log["loss"].iloc[0], log["loss"].iloc[-1]) == (1.0795, 0.908)
    assert ((log["epoch"] - log["step"] / 17_168).abs() < 5.1e-5).all()


def test_the_facts_agree_with_the_code():
    card = published_card()
    assert card["base_model"] == {"id": MODEL_ID, "revision": REVISION}
    assert card["dataset"]["rows"] == 550_152 - 785
    assert card["non_default_hyperparameters"].items() <= card["hyperparameters"].items()
    assert sum(card["dataset"]["statistics"]["label"]["percent"].values()) == pytest.approx(100)


def test_published_scores_have_sources():
    for scores in baselines().values():
        assert "arXiv" in scores["source"]
        assert len(scores["sts"]) == 7


@pytest.mark.real_data
@pytest.mark.skipif(not CARD.exists(), reason="the published card is not at hand")
def test_every_field_is_in_the_card():
    text, card = CARD.read_text(encoding="utf-8"), published_card()
    rows = re.findall(r"^\| (\d\.\d{4}) +\| (\d+) +\| ([\d.]+) +\|$", text, re.MULTILINE)
    assert [[float(epoch), int(step), float(loss)] for epoch, step, loss in rows] == card["log"]
    every = text.split("#### All Hyperparameters")[1].split("</details>")[0]
    printed = dict(re.findall(r"^- `(\w+)`: (.*)$", every, re.MULTILINE))
    assert {name: str(value) for name, value in card["hyperparameters"].items()} == printed
    for sentence in card["usage_sentences"]:
        assert f"'{sentence}'," in text
    for sample in card["dataset"]["samples"]:
        assert re.search(
            rf"<code>{re.escape(sample['sentence_0'])}</code> +\| <code>{re.escape(sample['sentence_1'])}</code> +\| <code>{sample['label']}</code>",
            text,
        )
    for name in ("sentence_0", "sentence_1"):
        statistics = card["dataset"]["statistics"][name]
        assert (
            f"min: {statistics['min']} tokens</li><li>mean: {statistics['mean']} tokens</li><li>max: {statistics['max']} tokens"
            in text
        )
    for label, percent in card["dataset"]["statistics"]["label"]["percent"].items():
        assert f"{label}: ~{percent:.2f}%" in text
    for name, version in card["versions"].items():
        assert f"- {name}: {version}" in text
    assert card["model"]["architecture"] in text
    assert re.findall(r"^(#+ .*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE) == card["sections"]
