"""The audit of model cards, on cards that releases of the library wrote in runs of which the truth is known (tests/cards)."""

import contextlib
import json
import random
import re
from pathlib import Path

import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses

import stlib
from stlib.__main__ import main
from stlib.auditing import LIBRARY, describe, load_text
from stlib.errors import UsageError
from tests.conftest import REAL_DATA

CARDS = Path(__file__).parent / "cards"
PUBLISHED = REAL_DATA.parent / "card" / "published_model_card.md"
TRUTH = json.loads((CARDS / "TRUTH.json").read_text(encoding="utf-8"))


def values(text: str) -> list[str]:
    found = stlib.audit(text)
    for name in ("entry_point", "head", "printed_settings"):
        assert found[name]["evidence"], name
        assert (found[name]["grade"] == "unknown") == (found[name]["value"] == "unknown"), name
    return [found[name]["value"] for name in ("entry_point", "head", "printed_settings")]


def card(name: str) -> str:
    return load_text(CARDS / f"{name}.md")


@pytest.mark.parametrize("name", TRUTH)
def test_an_audit_is_right_or_says_that_it_does_not_know(name):
    """``expected`` is the verdict, ``truth`` what ran: they differ where the card alone cannot tell."""
    expected, truth = TRUTH[name]["expected"], TRUTH[name]["truth"]
    assert values(card(name)) == expected
    if not TRUTH[name].get("made_to_look_like_fit"):
        assert all(said in (true, "unknown") for said, true in zip(expected, truth, strict=True))


def test_a_card_like_that_of_fit_is_never_certain():
    """All traces of fit set by hand in the trainer: the text of both cards is the same but for its samples and losses."""
    names = [name for name in TRUTH if TRUTH[name].get("made_to_look_like_fit")]
    assert names
    for name in names:
        found = stlib.audit(card(name))
        assert found["entry_point"]["grade"] == found["head"]["grade"] == "likely"
        assert "could be set in the trainer too" in found["entry_point"]["evidence"][-1]


@pytest.mark.parametrize("name", ["2.7.0-fit-softmax", "6.2.0-cross_encoder", "6.2.0-sparse_encoder"])
def test_cards_of_other_versions_and_models_are_refused(name):
    with pytest.raises(UsageError, match=r"name (one|the card)"):
        stlib.audit(card(name))


@pytest.mark.parametrize(
    "text",
    ["", "# A text\n", "---\nlibrary_name: peft\n---\n# Model\n", "---\n- a\n---\n# x\n", "---\na: [\n---\n# x\n",
     "---\nlibrary_name: setfit\n---\n# SetFit\n### Framework Versions\n- SetFit: 1.1.0\n- Sentence Transformers: 3.4.1\n"],
)  # fmt: skip
def test_what_is_no_card_of_the_library_is_refused(text):
    with pytest.raises(UsageError):
        stlib.audit(text)


def test_line_ends_a_byte_order_mark_and_missing_front_matter_change_nothing(tmp_path):
    text = card("3.4.1-fit-softmax")
    expected = values(text)
    (tmp_path / "README.md").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert values(load_text(tmp_path)) == expected
    assert values(text.split("---\n", 2)[2]) == expected


def test_one_trace_of_fit_does_not_convict_and_one_sign_against_it_does():
    text = card("3.4.1-fit-softmax")
    assert values(text)[:2] == ["fit", "frozen"]
    assert values(text.replace("`max_grad_norm`: 1\n", "`max_grad_norm`: 1.0\n"))[:2] == ["unknown", "unknown"]
    for here, there in {
        "`learning_rate`: 5e-05": "`learning_rate`: 2e-05",
        "sentence_0": "premise",
        "`multi_dataset_batch_sampler`: round_robin": "`multi_dataset_batch_sampler`: proportional",
        "| 500 ": "| 510 ",
    }.items():
        assert here in text
        changed = stlib.audit(text.replace(here, there))
        assert (changed["entry_point"]["value"], changed["entry_point"]["grade"]) == ("trainer", "certain"), here
        assert changed["head"]["value"] == "trained, gradients added up"


def test_what_the_audit_cannot_know_is_unknown():
    text = card("3.4.1-fit-softmax")
    for version in ("3.1.0.dev0", "7.0.0", "None"):
        changed = text.replace("Sentence Transformers: 3.4.1", f"Sentence Transformers: {version}")
        assert changed != text
        assert values(changed)[1] == "unknown", version
    assert values(text.replace("SoftmaxLoss", "MyLoss"))[1] == "unknown"
    assert (
        values(
            text.split("### Training Hyperparameters")[0] + "### Framework Versions\n- Sentence Transformers: 3.4.1\n"
        )
        == ["unknown"] * 3
    )


def test_the_steps_are_counted():
    text = card("3.4.1-fit-softmax")
    found = {one["about"]: one["evidence"][0] for one in stlib.audit(text)["findings"]}
    assert found["steps"].endswith("they agree")
    rows = next(line for line in text.splitlines() if line.startswith("* Size: "))
    found = {
        one["about"]: one["evidence"][0]
        for one in stlib.audit(text.replace(rows, "* Size: 7 training samples"))["findings"]
    }
    assert found["steps"].endswith("they do not agree")
    assert "licence" in found["missing"]


@pytest.mark.parametrize(
    ("pattern", "odd"),
    [
        (r"`per_device_train_batch_size`: \d+", "`per_device_train_batch_size`: 0"),
        (r"`per_device_train_batch_size`: \d+", "`per_device_train_batch_size`: True"),
        (r"`gradient_accumulation_steps`: \d+", "`gradient_accumulation_steps`: auto"),
        (r"`gradient_accumulation_steps`: \d+", "`gradient_accumulation_steps`: 0"),
        (r"\* Size: [\d,]+", "* Size: ,"),
        (r"\* Size: [\d,]+", "* Size: 0,07"),
        (r"\* Size: [\d,]+", "* Size: 0"),
    ],
)
def test_steps_are_not_counted_with_what_is_no_whole_number_above_zero(pattern, odd):
    changed, count = re.subn(pattern, odd, card("3.4.1-fit-softmax"))
    assert count
    assert "steps" not in {one["about"] for one in stlib.audit(changed)["findings"]}


@pytest.mark.parametrize("tags", ["5", "a tag", "{a: 1}", "", "2024-01-01"])
def test_tags_that_are_no_list_change_nothing_else(tags):
    text = card("3.4.1-fit-softmax")
    start, end = text.index("tags:"), text.index("\n", text.index("- loss:"))
    assert values(text[:start] + f"tags: {tags}" + text[end:])[0] == "fit"


def test_a_card_with_any_damage_is_audited_or_refused():
    """Lines lost, doubled, cut or with other values in place of their numbers: there is no third way out."""
    texts, chance = [card(name) for name in TRUTH if "encoder" not in name][:4], random.Random(0)
    odd = ["0", "-1", "auto", "0,07", ",", "None", "nan", "inf", "[]", "{[]: 1}", "1.2.3", "x: y", "|", "1_000"]
    for number in range(200):
        lines = texts[number % len(texts)].split("\n")
        places = range(lines.index("---", 1) + 1, len(lines))  # damage above is mostly refused as no YAML
        for place in chance.sample(places, 12):
            changes = [
                re.sub(r"[\d.,]*\d", chance.choice(odd), lines[place]),
                re.sub(r"(?<=: ).*", chance.choice(odd), lines[place]),
                lines[place][: len(lines[place]) // 2],
                f"{lines[place]}\n{lines[place]}",
                lines[place - 1],
            ]
            lines[place] = chance.choice(changes)
        with contextlib.suppress(UsageError):
            describe(stlib.audit("\n".join(lines)))


def test_our_own_cards_say_what_ran(tiny_run):
    text = (tiny_run.folder / "README.md").read_text(encoding="utf-8")
    assert values(text) == ["trainer", "trained", "used"]
    said = next(line for line in text.splitlines() if line.startswith("| classifier head |"))
    frozen = text.replace(said, "| classifier head | frozen at its random initialization |")
    assert values(frozen) == ["trainer", "frozen", "used"]
    assert values(text.replace("learning rate 0.", "learning rate 7."))[2] == "not used"


def test_the_losses_with_parameters_are_those_that_the_library_has(tiny_model):
    model = SentenceTransformer(str(tiny_model), device="cpu")
    size = model.get_embedding_dimension()
    plain = losses.CosineSimilarityLoss(model)
    arguments = {
        "SoftmaxLoss": (size, 3), "MatryoshkaLoss": (plain, [size]), "Matryoshka2dLoss": (plain, [size]), "AdaptiveLayerLoss": (plain,),
        "GISTEmbedLoss": (model,), "CachedGISTEmbedLoss": (model,),
    }  # fmt: skip
    theirs, own = {id(parameter) for parameter in model.parameters()}, set()
    names = [name for name in losses.__all__ if name.endswith("Loss") or name.endswith("InBatchNegatives")]
    for name in names:
        if name == "DenoisingAutoEncoderLoss":  # its decoder is another model to load
            own.add(name)
            continue
        loss = getattr(losses, name)(model, *arguments.get(name, ()))
        if any(id(parameter) not in theirs for parameter in loss.parameters()):
            own.add(name)
    assert own == set(LIBRARY["own_parameters"])
    assert len(names) > 25


@pytest.mark.real_data
@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published card is not here")
def test_the_published_card():
    text = load_text(PUBLISHED)
    assert values(text) == ["fit", "frozen", "not used"]
    found = {one["about"]: one["evidence"][0] for one in stlib.audit(text)["findings"]}
    assert "0.907" in found["plateau"]
    assert found["steps"].endswith("they agree")
    assert {"loss at the start", "warm-up", "missing"} <= found.keys()


def test_the_command(tmp_path, capsys):
    out = tmp_path / "audit.json"
    assert main(["card", "audit", str(CARDS / "3.4.1-trainer-softmax.md"), "--json", str(out)]) == 0
    printed, found = capsys.readouterr().out, json.loads(out.read_text(encoding="utf-8"))
    assert printed.strip() == describe(found)
    assert found["head"]["value"] == "trained, gradients added up"
    (tmp_path / "empty.md").touch()
    for wrong in (
        ["audit"],
        ["audit", str(tmp_path / "no.md")],
        ["audit", str(tmp_path / "empty.md")],
        ["run", "card.md"],
    ):
        assert main(["card", *wrong]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
