"""The published card as data; where the card itself is at hand, field by field against its text."""

import json

import pytest

from stlib.card.published import baselines, published_card, published_log
from stlib.card.reading import read_card, sections
from stlib.model import MODEL_ID, REVISION
from stlib.settings import UsageError
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
def test_every_field_is_the_cards():
    """Read again from the card itself: every value and every type of published.json, and no field more or less."""
    read = read_card(CARD.read_text(encoding="utf-8"))
    ours = {name: value for name, value in published_card().items() if name not in ("source", "log_columns")}
    assert read.keys() == ours.keys()
    for name in ours:
        assert json.dumps(read[name]) == json.dumps(ours[name]), name


def test_sections_of_a_card_skip_code_and_front_matter():
    text = "---\n# a comment\ntags: [x]\n---\n\n# Title\n\n```python\n# no heading\n```\n\n## Next\ntext\n"
    assert list(sections(text)) == ["# Title", "## Next"]
    assert sections(text)["## Next"] == "text"
    assert "# no heading" in sections(text)["# Title"]
    with pytest.raises(UsageError, match="no model card"):
        read_card("# Title\n")
