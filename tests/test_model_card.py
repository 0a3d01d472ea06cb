"""The card of a run: fed offline, with the settings that ran and the scores, and compared with the published one."""

import json
import shutil
from dataclasses import replace

import pytest
from huggingface_hub import HfApi
from sentence_transformers import SentenceTransformer

from stlib import sources
from stlib.__main__ import main
from stlib.card.compare import WHY, compare, flat, report
from stlib.card.model_card import effective_settings, write_card
from stlib.card.published import published_card
from stlib.card.reading import read_card
from stlib.model import load_encoder
from stlib.runs import Run
from stlib.settings import PROFILES, UsageError


def copy_of(run, folder):
    """A copy of a run, whose card may be written anew."""
    shutil.copytree(run.folder, folder, ignore=shutil.ignore_patterns("checkpoints"))
    return Run.load(folder)


@pytest.fixture(scope="module")
def few_test_pairs():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROFILES, "mini", replace(PROFILES["mini"], test_rows=90))
        yield


@pytest.fixture(scope="module")
def run(real_run, tmp_path_factory):
    return copy_of(real_run, tmp_path_factory.mktemp("card") / "run")


@pytest.fixture(scope="module")
def card(run, few_test_pairs):
    return write_card(run, sources.Source("mini")).read_text(encoding="utf-8")


def test_the_library_is_told_what_it_cannot_know(card, run):
    facts = read_card(card)
    assert (facts["model"]["language"], facts["model"]["license"]) == ("en", "apache-2.0")
    assert facts["model"]["training_datasets"] == ["scene grammar"]
    assert facts["base_model"] == published_card()["base_model"]
    assert facts["front_matter"]["license"] == "apache-2.0"
    assert (facts["dataset"]["rows"], facts["dataset"]["loss"]) == (192, "SoftmaxLoss")
    assert (run.model_folder / "README.md").read_text(encoding="utf-8") == card


def test_real_pairs_keep_the_id_of_their_data_set_offline(monkeypatch, tiny_model):
    from stlib.card.model_card import describe_model

    monkeypatch.setattr(
        "sentence_transformers.base.model_card.get_dataset_info", lambda *_: pytest.fail("the hub was asked")
    )
    model = load_encoder(tiny_model, "cpu")
    describe_model(model, "folder data")
    data = model.model_card_data
    data.train_datasets = data.validate_datasets(data.train_datasets)
    assert data.train_datasets == [{"name": "SNLI", "id": "stanfordnlp/snli"}]
    assert data.datasets == ["stanfordnlp/snli"]


def test_scores_are_in_the_card_and_not_in_the_training_log(card, run):
    facts = read_card(card)
    results = facts["front_matter"]["model-index"][0]["results"]
    assert {result["dataset"]["type"] for result in results} == {"sts", "nli-test"}
    assert "| **spearman_cosine** |" in card
    assert "sts_spearman_cosine" not in card
    assert [row[1] for row in facts["log"]] == run.log()["step"].tolist()
    assert [row[2] for row in facts["log"]] == pytest.approx(run.log()["loss"].round(4).tolist())


def test_the_effective_settings_are_the_runs(card, run):
    table = card.split("### Effective Settings")[1].split("\n#")[0]
    for name, value in effective_settings(run.info):
        assert f"| {name} | {value} |" in table
    settings = dict(effective_settings(run.info))
    assert "trained, learning rate 0.04; it moved by" in settings["classifier head"]
    assert settings["schedule"] == "linear: no warm-up, then down to zero at step 6"
    frozen = {**run.info, "recipe": {**run.info["recipe"], "train_head": False, "head_gain": 1.0, "warmup_steps": 1000}}
    settings = dict(effective_settings(frozen))
    assert settings["classifier head"].startswith("frozen at its random initialization")
    assert "up over 1,000 steps" in settings["schedule"]


def test_a_card_is_there_after_training_already(tiny_run, tiny_model):
    for folder in (tiny_run.folder, tiny_run.model_folder):
        text = (folder / "README.md").read_text(encoding="utf-8")
        assert "### Effective Settings" in text
        assert "192 training samples" in text
        assert str(tiny_run.folder.parent) not in text
        assert str(tiny_model.parent) not in text


def test_every_section_of_the_published_card_is_there_and_every_difference_has_a_reason(card, run):
    differences = compare(card)
    assert not [d.section for d in differences if d.verdict == "only there"]
    unexplained = [d.section for d in differences if d.verdict != "same" and not d.why]
    assert not unexplained
    assert len([d for d in differences if d.verdict == "same"]) >= 15
    by_section = {d.section: d for d in differences}
    assert "rows: 549367 → 192" in by_section["#### (the data set)"].details
    rate = run.info["recipe"]["learning_rate"]
    assert f"learning_rate: 5e-05 → {rate}" in by_section["#### All Hyperparameters"].details
    assert by_section["### Effective Settings"].verdict == "only here"


def test_the_modules_are_the_published_ones(card):
    details = next(d for d in compare(card) if d.section == "### Full Model Architecture").details
    assert len(details) == 1
    assert details[0].startswith("printed: ")


def test_a_section_that_is_gone_or_changed_is_noticed(card):
    without = card.replace("### Training Logs", "### Logs")
    verdicts = {d.section: d.verdict for d in compare(without)}
    assert verdicts["### Training Logs"] == "only there"
    assert verdicts["### Logs"] == "only here"
    other = card.replace("**Maximum Sequence Length:** 256", "**Maximum Sequence Length:** 128")
    details = next(d for d in compare(other) if d.section == "### Model Description").details
    assert "max_seq_length: 256 → 128" in details


def test_no_reason_without_a_section(card):
    known = {d.section for d in compare(card)}
    assert set(WHY) <= known


def test_nested_facts_are_flattened():
    assert flat({"a": {"b": 1, "c": {}}, "d": 2}) == {"a.b": 1, "a.c": {}, "d": 2}


def test_the_command_line(tiny_run, tmp_path, capsys, few_test_pairs):
    run = copy_of(tiny_run, tmp_path / "run")
    assert main(["card", str(run.folder), "--data", "mini"]) == 0
    assert "model card written" in capsys.readouterr().out
    assert main(["card", str(run.folder), "--compare"]) == 0
    printed = capsys.readouterr().out
    assert printed.strip() == report(compare((run.folder / "README.md").read_text(encoding="utf-8"))).strip()
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


def test_what_is_remembered_is_plain_json(tiny_run):
    known = json.loads((tiny_run.folder / "card.json").read_text(encoding="utf-8"))
    assert known["train_datasets"][0]["name"] == "scene grammar"
    assert len(known["training_logs"]) == 3
