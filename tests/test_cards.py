"""Model cards: the published one against its data, the card of a run with what ran and its scores, and what differs."""

import dataclasses
import json
import shutil
from dataclasses import asdict, replace

import pytest
from huggingface_hub import HfApi
from sentence_transformers import SentenceTransformer

from stlib.__main__ import main
from stlib.cards import (
    baselines,
    compare,
    comparison_text,
    describe_model,
    effective_settings,
    flatten,
    published_card,
    published_log,
    read_card,
    sections,
    with_what_ran,
    write_card,
)
from stlib.configure import load_rows
from stlib.data import fingerprint
from stlib.errors import UsageError
from stlib.model import MODEL_ID, PLAIN_ENCODER, PLAIN_HEAD, REVISION, load_encoder
from stlib.recipes import get_recipe
from stlib.runs import Run, RunConfig
from stlib.settings import PROFILES
from stlib.sources import Source
from tests.conftest import REAL_DATA

CARD = REAL_DATA.parent / "card" / "published_model_card.md"


def copy_of(run, folder):
    """Return a copy of a run, whose card may be written again."""
    shutil.copytree(run.folder, folder, ignore=shutil.ignore_patterns("checkpoints"))
    return Run.load(folder)


@pytest.fixture(scope="module")
def few_test_pairs():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROFILES, "mini", replace(PROFILES["mini"], test_split="test[:90]"))
        yield


@pytest.fixture(scope="module")
def run(real_run, tmp_path_factory):
    return copy_of(real_run, tmp_path_factory.mktemp("card") / "run")


@pytest.fixture(scope="module")
def card(run, few_test_pairs):
    return write_card(run, Source("mini")).read_text(encoding="utf-8")


def test_the_published_log_has_137_rows_500_steps_apart():
    log = published_log()
    assert log["step"].tolist() == list(range(500, 68_501, 500))
    assert (log["loss"].iloc[0], log["loss"].iloc[-1]) == (1.0795, 0.908)
    assert ((log["epoch"] - log["step"] / 17_168).abs() < 5.1e-5).all()


def test_published_facts_agree_with_the_code_and_scores_have_sources():
    card = published_card()
    assert card["base_model"] == {"id": MODEL_ID, "revision": REVISION}
    assert card["dataset"]["rows"] == 550_152 - 785
    assert card["non_default_hyperparameters"].items() <= card["hyperparameters"].items()
    assert sum(card["dataset"]["statistics"]["label"]["percent"].values()) == pytest.approx(100)
    for scores in baselines().values():
        assert "arXiv" in scores["source"]
        assert len(scores["sts"]) == 7


@pytest.mark.real_data
@pytest.mark.skipif(not CARD.exists(), reason="the published card is not here")
def test_every_field_is_the_cards():
    """Read again from the card itself: every value and every type of published.json, and no field more or less."""
    text = CARD.read_text(encoding="utf-8")
    ours = {
        name: value
        for name, value in published_card().items()
        if name not in ("source", "log_columns", "why", "fingerprints")
    }
    read = read_card(text)
    assert read.keys() == ours.keys()
    for name in ours:
        assert json.dumps(read[name]) == json.dumps(ours[name]), name
    assert set(compare(text)["verdict"]) == {"same"}


def test_sections_of_a_card_skip_code_and_front_matter():
    text = "---\n# a comment\ntags: [x]\n---\n\n# Title\n\n```python\n# no heading\n```\n\n## Next\ntext\n"
    assert list(sections(text)) == ["# Title", "## Next"]
    assert sections(text)["## Next"] == "text"
    assert "# no heading" in sections(text)["# Title"]
    with pytest.raises(UsageError, match="no model card"):
        read_card("# Title\n")


def test_what_a_card_lacks_or_has_in_a_comment_is_none_or_empty():
    unknown = "<!-- - **Base model:** [Unknown](https://huggingface.co/unknown) -->\n<!-- - **License:** Unknown -->\n"
    facts = read_card(f"---\ntags: [x]\n---\n# Title\n### Model Description\n{unknown}")
    assert facts["front_matter"] == {"tags": ["x"]}
    assert facts["base_model"] is facts["dataset"] is facts["model"]["license"] is facts["model"]["dimensions"] is None
    assert not any(facts[name] for name in ("sources", "usage_sentences", "hyperparameters", "log", "versions"))


def test_the_log_has_losses_only():
    """Scores of an evaluator stand in the same table, in any column, and beside a loss or without one."""
    front = "---\ntags: [x]\n---\n### Training Logs\n"
    rule = "|:---:|:---:|:---:|:---:|\n"
    scores = "| Epoch | Step | sts-dev_spearman_cosine |\n|:--:|:--:|:--:|\n| 0.5 | 10 | 0.7512 |\n"
    assert read_card(front + scores)["log"] == []
    both = f"| Epoch | Step | sts-dev_spearman_cosine | Training Loss |\n{rule}| 0 | 0 | 0.7 | - |\n| **0.5** | **500** | 0.8 | 1.05 |\n"
    log = read_card(f"{front}{both}| 3.99 | 68500 | - | 0.908 |\n")["log"]
    assert json.dumps(log) == "[[0.5, 500, 1.05], [3.99, 68500, 0.908]]"


@pytest.mark.parametrize(
    "broken", ["tags: [a", "tags: {[]: 1}", "a: 1\n---\n### Direct Usage (Sentence Transformers)\nsentences = [\n'a\n]"]
)
def test_a_card_that_cannot_be_read_is_refused(broken):
    with pytest.raises(UsageError, match="the card cannot be read"):
        compare(f"---\n{broken}\n---\n")


def test_samples_are_text_or_numbers_as_their_columns_are():
    """A sentence that looks like a number or a string of Python's stays as it is written."""
    rows = "| <code>42</code> | <code>1</code> |\n  | <code>'so'</code> | <code>0</code> |"
    text = (
        "---\ntags: [x]\n---\n### Training Dataset\n#### A name\n* Size: 1,234 training samples\n"
        "* Columns: <code>text</code> and <code>label</code>\n* Approximate statistics based on the first 2 samples:\n"
        "  | | text | label |\n  |:--|:--|:--|\n  | type | string | int |\n"
        f"  | details | <ul><li>min: 3 tokens</li></ul> | <ul><li>0: ~50.00%</li></ul> |\n* Samples:\n  | text | label |\n  |:--|:--|\n  {rows}\n"
    )
    dataset = read_card(text)["dataset"]
    assert (dataset["rows"], dataset["statistics_rows"], dataset["loss"]) == (1_234, 2, None)
    assert dataset["statistics"] == {
        "text": {"type": "string", "min": 3},
        "label": {"type": "int", "percent": {"0": 50.0}},
    }
    assert dataset["samples"] == [{"text": "42", "label": 1}, {"text": "'so'", "label": 0}]


def test_the_library_is_told_what_it_cannot_know(card, run):
    facts = read_card(card)
    assert (facts["model"]["language"], facts["model"]["license"]) == ("en", "apache-2.0")
    assert facts["model"]["training_datasets"] == ["scene grammar"]
    assert facts["base_model"] == published_card()["base_model"]
    assert facts["front_matter"]["license"] == "apache-2.0"
    assert (facts["dataset"]["rows"], facts["dataset"]["loss"]) == (384, "SoftmaxLoss")
    assert (run.model_folder / "README.md").read_text(encoding="utf-8") == card


def described(model, run, **changes):
    """Return the card data of a model that was told of the run with other rows."""
    info = {**run.info, **changes}
    fields = {field.name: info[field.name] for field in dataclasses.fields(RunConfig)}
    describe_model(model, RunConfig(**{**fields, "recipe": get_recipe(info.get("trained", "card"))}))
    return model.model_card_data


def test_the_licence_of_the_base_model_is_claimed_for_what_starts_from_it(tiny_model, run):
    assert described(load_encoder(tiny_model, "cpu"), run, start="base").license == "apache-2.0"
    assert described(load_encoder(tiny_model, "cpu"), run, start=str(tiny_model)).license is None


def test_the_id_of_a_data_set_is_claimed_only_for_its_rows(monkeypatch, tiny_model, run):
    """Rows of the hub, or of a folder whose fingerprint is that of a whole split; offline the id stays."""
    monkeypatch.setattr(
        "sentence_transformers.base.model_card.get_dataset_info", lambda *_: pytest.fail("the hub was asked")
    )
    known = published_card()["fingerprints"]
    for source, rows in (("the hub", "0123"), ("folder data", known["snli"][0])):
        data = described(load_encoder(tiny_model, "cpu"), run, source=source, data_fingerprint=rows)
        assert data.validate_datasets(data.train_datasets) == [{"name": "SNLI", "id": "stanfordnlp/snli"}]
        assert data.datasets == ["stanfordnlp/snli"]
    rows = {"nli_split": "train[:40]", "rows": 40, "data_fingerprint": "0123"}
    data = described(load_encoder(tiny_model, "cpu"), run, source="folder mine", **rows)
    (only,) = data.train_datasets
    assert only == {"name": "snli in a folder called mine: 40 rows of train[:40], fingerprint 0123"}
    assert not data.datasets
    scored = {"trained": "sts_stage", "nli_split": "validation", "source": "folder mine"}
    data = described(load_encoder(tiny_model, "cpu"), run, data_fingerprint=known["stsbenchmark-sts"][1], **scored)
    assert data.datasets == ["mteb/stsbenchmark-sts"]
    data = described(load_encoder(tiny_model, "cpu"), run, data_fingerprint="0123", **scored)
    assert data.train_datasets[0]["name"].startswith(
        "stsbenchmark-sts in a folder called mine: 384 rows of validation,"
    )


@pytest.mark.real_data
@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="no real corpora beside the project (../shared/data)")
@pytest.mark.parametrize(
    ("recipe", "split", "number"), [("card", "validation", 0), ("ranking", "test", 4), ("cosent", "test", 7)]
)
def test_fingerprints_are_of_whole_splits(recipe, split, number):
    rows = load_rows(get_recipe(recipe), split, Source("folder", REAL_DATA))
    assert fingerprint(rows) == published_card()["fingerprints"]["snli"][number]


def test_the_split_that_was_used_is_said(run):
    recipe = {**asdict(get_recipe("sts_stage")), "warmup_steps": 1, "schedule_steps": 6}
    settings = dict(effective_settings({**run.info, "recipe": recipe, "nli_split": "validation"}))
    assert "`stsbenchmark-sts validation`" in settings["data"]


def test_the_card_shows_the_model_without_the_library(card, run):
    usage = sections(card)["### Direct Usage (Transformers)"]
    for code in (PLAIN_ENCODER, PLAIN_HEAD):
        assert f"```python\n{code}```" in usage
    plain = "# T\n<!--\n### Direct Usage (Transformers)\n\nempty\n-->\n### Framework Versions\n"
    other = {"train_head": False, "multiply": True, "normalize": False}
    usage = with_what_ran(plain, {**run.info, "recipe": {**run.info["recipe"], **other}})
    assert "nli_head" not in usage
    assert "normalize(" not in usage
    assert "last_hidden_state" in usage


def test_scores_are_in_the_card_and_not_in_the_training_log(card, run):
    facts = read_card(card)
    results = facts["front_matter"]["model-index"][0]["results"]
    assert {result["dataset"]["type"] for result in results} == {"sts", "nli-test"}
    assert [metric["type"] for metric in results[1]["metrics"]] == ["accuracy", "macro_f1"]
    assert "| **spearman_cosine** |" in card
    assert "| **accuracy** |" in card
    assert "sts_spearman_cosine" not in card
    assert [row[1] for row in facts["log"]] == run.log()["step"].tolist()
    assert [row[2] for row in facts["log"]] == pytest.approx(run.log()["loss"].round(4).tolist())


def test_the_effective_settings_are_the_runs(card, run):
    table = card.split("### Effective Settings")[1].split("\n#")[0]
    for name, value in effective_settings(run.info):
        assert f"| {name} | {value} |" in table
    settings = dict(effective_settings(run.info))
    assert "trained, learning rate 0.08; it moved by" in settings["classifier head"]
    assert settings["schedule"] == "linear: no warm-up, then down to zero at step 6"
    frozen = {**run.info, "recipe": {**run.info["recipe"], "train_head": False, "head_gain": 1.0, "warmup_steps": 1000}}
    settings = dict(effective_settings(frozen))
    assert settings["classifier head"].startswith("frozen at its random initialization")
    assert "up over 1,000 steps" in settings["schedule"]
    ranking = {
        **run.info,
        "recipe": {**run.info["recipe"], "loss": "mnrl", "normalize": False, "matryoshka": [384, 32]},
    }
    settings = dict(effective_settings({**ranking, "head_moved": None}))
    assert settings["classifier head"] == "none: this loss compares embeddings"
    assert settings["loss"].endswith("scale 20, embeddings not normalized, on 384, 32 dimensions (MatryoshkaLoss)")
    ranking["recipe"] |= {"loss": "gist", "matryoshka": [], "normalize": True, "together": False, "no_duplicates": True}
    settings = dict(effective_settings(ranking))
    assert (
        settings["loss"]
        == "GISTEmbedLoss, contradictions as hard negatives, scale 20, guided by the model it starts from"
    )
    assert settings["batches"] == "rows in random order, no text twice in a batch"
    assert settings["steps"].endswith("triplets each")
    ranking["recipe"] |= {"loss": "cosine"}
    assert dict(effective_settings(ranking))["loss"] == "CosineSimilarityLoss"


def test_a_card_is_there_after_training_already(tiny_run, tiny_model):
    for folder in (tiny_run.folder, tiny_run.model_folder):
        text = (folder / "README.md").read_text(encoding="utf-8")
        assert "### Effective Settings" in text
        assert "384 training samples" in text
        assert str(tiny_run.folder.parent) not in text
        assert str(tiny_model.parent) not in text
    known = json.loads((tiny_run.folder / "card.json").read_text(encoding="utf-8"))
    assert known["train_datasets"][0]["name"] == "scene grammar"
    assert len(known["training_logs"]) == 3


def test_every_section_of_the_published_card_is_there_and_every_difference_has_a_reason(card, run):
    found = compare(card).set_index("section")
    verdicts = found["verdict"]
    assert "only there" not in set(verdicts)
    assert found.index[verdicts != "same"].equals(found.index[found["why"] != ""])
    assert (verdicts == "same").sum() >= 15
    assert "rows: 549367 → 384" in found["details"]["#### (the data set)"]
    rate = run.info["recipe"]["learning_rate"]
    assert f"learning_rate: 5e-05 → {rate}" in found["details"]["#### All Hyperparameters"]
    assert verdicts["### Effective Settings"] == "only here"
    assert set(published_card()["why"]) <= set(found.index), "a reason without a section"
    [modules] = found["details"]["### Full Model Architecture"]  # the same modules, printed in another way
    assert modules.startswith("printed: ")


def test_a_section_that_is_gone_or_changed_is_noticed(card):
    without = compare(card.replace("### Training Logs", "### Logs")).set_index("section")["verdict"]
    assert (without["### Training Logs"], without["### Logs"]) == ("only there", "only here")
    other = card.replace("**Maximum Sequence Length:** 256", "**Maximum Sequence Length:** 128")
    details = compare(other).set_index("section")["details"]
    assert "max_seq_length: 256 → 128" in details["### Model Description"]


def test_nested_facts_are_flattened():
    assert flatten({"a": {"b": 1, "c": {}}, "d": 2}) == {"a.b": 1, "a.c": {}, "d": 2}


def test_the_command_line(tiny_run, tmp_path, capsys, few_test_pairs):
    run = copy_of(tiny_run, tmp_path / "run")
    assert main(["card", str(run.folder), "--data", "mini"]) == 0
    assert "model card written" in capsys.readouterr().out
    assert main(["card", str(run.folder), "--compare"]) == 0
    printed = capsys.readouterr().out
    assert printed.strip() == comparison_text(compare((run.folder / "README.md").read_text(encoding="utf-8"))).strip()
    assert "              rows: 549367 → 384\n" in printed
    assert "0 only there" in printed
    assert main(["card", str(run.folder / "model")]) == 2


def test_a_run_without_its_memory_is_refused(tiny_run, tmp_path):
    run = copy_of(tiny_run, tmp_path / "run")
    (run.folder / "card.json").unlink()
    with pytest.raises(UsageError, match=r"has no card\.json"):
        write_card(run)


def test_publishing_sends_encoder_head_and_card(tiny_run, tmp_path, monkeypatch):
    """Up to the network call: what would be uploaded, and to where."""
    run, sent = copy_of(tiny_run, tmp_path / "run"), {}

    class Answer:
        repo_id = "you/your-model"
        commit_url = "the commit"

    monkeypatch.setattr(HfApi, "create_repo", lambda self, **options: sent.update(created=options) or Answer())
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **options: sent.update(uploaded=options) or Answer())
    write_card(run, evaluate=False, model_id="you/your-model")
    assert 'SentenceTransformer("you/your-model")' in (run.model_folder / "README.md").read_text(encoding="utf-8")
    model = SentenceTransformer(str(run.model_folder), device="cpu")
    assert model.push_to_hub("you/your-model", private=True, local_model_path=str(run.model_folder)) == "the commit"
    assert (sent["created"]["repo_id"], sent["created"]["private"]) == ("you/your-model", True)
    assert sent["uploaded"]["folder_path"] == str(run.model_folder)
    names = {path.name for path in run.model_folder.iterdir()}
    assert {"README.md", "model.safetensors", "nli_head.safetensors", "nli_head.json", "modules.json"} <= names
