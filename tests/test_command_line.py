import errno
import io
import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pandas as pd
import pytest

from stlib.__main__ import chosen_profile, main, make_parser
from stlib.model import load_encoder, save_encoder
from stlib.settings import runs_folder


def fails(capsys, *arguments):
    """The one line on standard error of a command that must end with status 2."""
    assert main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_train_evaluate_predict(tmp_path, capsys, monkeypatch, tiny_model):
    run = tmp_path / "run"
    options = ["--recipe", "card", "--nli-split", "train[:96]", "--max-steps", "2", "--start", str(tiny_model)]
    assert main(["train", *options, "--out", str(run)]) == 0
    out = capsys.readouterr().out
    assert "training card, profile mini: 96 pairs" in out
    assert "2 steps in" in out
    scores = tmp_path / "scores" / "scores.json"
    assert main(["evaluate", str(run), "--tasks", "nli,sts,opinion", "--json", str(scores)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["nli", "sts", "opinion", "opinion"]
    results = json.loads(scores.read_text())["results"]
    assert [row["task"] for row in results] == ["nli", "sts", "opinion", "opinion"]
    assert [row["protocol"] for row in results[2:]] == ["senteval", "mteb"]
    assert main(["predict", str(run), "--premise", "A man sleeps.", "--hypothesis", "A person rests."]) == 0
    assert capsys.readouterr().out.split()[0] in ("entailment", "neutral", "contradiction")
    pairs = tmp_path / "pairs.csv"
    pd.DataFrame({"premise": ["A man sleeps.", "NA"], "hypothesis": ["He rests.", "null"]}).to_csv(pairs, index=False)
    assert main(["predict", str(run), "--input", str(pairs), "--output", str(tmp_path / "labels.csv")]) == 0
    table = pd.read_csv(tmp_path / "labels.csv", keep_default_na=False)
    assert table["premise"].tolist() == ["A man sleeps.", "NA"]
    assert table[["entailment", "neutral", "contradiction"]].sum(axis=1).tolist() == pytest.approx([1, 1], abs=1e-5)
    assert set(table["predicted"]) <= {"entailment", "neutral", "contradiction"}


def test_evaluate_base_on_a_folder(data_folder, capsys, monkeypatch, base):
    monkeypatch.setattr("stlib.model.load_base", lambda: base)
    arguments = ["--tasks", "sts13-sts,cr", "--data", str(data_folder), "--protocol", "senteval"]
    assert main(["evaluate", "base", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["sts13-sts", "all"], ["cr", "senteval"]]


def test_figures_are_percent_and_one_that_is_not_defined_is_said(tmp_path, capsys, tiny_model):
    (tmp_path / "years").mkdir()
    pairs = {
        "sentence1": ["a cat", "a dog", "the sun"],
        "sentence2": ["a kitten", "a puppy", "a tax"],
        "score": [4, 3, 0],
    }
    pd.DataFrame({**pairs, "subset": ["pets", "pets", "sky"]}).to_parquet(tmp_path / "years" / "test.parquet")
    arguments = ["--tasks", "years", "--data", str(tmp_path), "--subsets", "--json", str(tmp_path / "scores.json")]
    assert main(["evaluate", str(tiny_model), *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["years", "sky", "n=1", "no", "correlation", "is", "defined"]
    rows = json.loads((tmp_path / "scores.json").read_text(), parse_constant=pytest.fail)["results"]
    assert [row["subset"] for row in rows] == ["all", "pets", "sky", "mean of subsets"]
    assert rows[2]["spearman"] is None
    assert json.loads((tmp_path / "scores.json").read_text())["units"].startswith("percent")
    assert abs(rows[1]["spearman"]) == pytest.approx(100)  # of two pairs


def test_a_file_that_cannot_be_written_is_found_out_before_the_work(tmp_path, capsys, monkeypatch, tiny_model):
    monkeypatch.setattr("stlib.evaluate.suite", lambda *arguments: pytest.fail("scored"))
    monkeypatch.setattr("stlib.fast.bench.compare", lambda *arguments: pytest.fail("timed"))
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for command in (["evaluate", tiny_model, "--tasks", "sts"], ["bench"]):
        for path in (tmp_path, tmp_path / "file" / "scores.json", "/dev/null/scores.json", "-"):
            assert "choose a" in fails(capsys, *command, "--json", path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_audit_does_not_overwrite_its_card(tmp_path, capsys):
    (tmp_path / "README.md").write_text("mine", encoding="utf-8")
    for place in (tmp_path / "README.md", tmp_path):
        arguments = ["card", "audit", place, "--json", tmp_path / "README.md"]
        assert "would overwrite the card" in fails(capsys, *arguments)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "mine"


def test_ctrl_c_is_one_line(capsys, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("stlib.train.train", interrupted)
    monkeypatch.setattr("stlib.convert.convert", interrupted)
    assert main(["train"]) == 130
    assert capsys.readouterr().err == "stlib train: interrupted; a training that has begun goes on with --resume\n"
    assert main(["data", "a", "b"]) == 130
    assert capsys.readouterr().err == "stlib data: interrupted\n"


def test_the_output_may_go_to_a_pipe_that_lacks_letters(tiny_run, monkeypatch):
    pipe = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", pipe)
    monkeypatch.setattr(sys, "argv", ["stlib", "card", str(tiny_run.folder), "--compare"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("stlib", run_name="__main__")
    pipe.flush()
    assert ended.value.code == 0
    assert b" ? " in pipe.buffer.getvalue()  # an arrow elsewhere


def test_a_full_disk_for_tokens_names_their_folder(tmp_path, capsys, monkeypatch, tiny_model):
    monkeypatch.setattr("stlib.train.tokenise", mock.Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
    options = ["--recipe", "card", "--nli-split", "train[:96]", "--start", tiny_model, "--out", tmp_path / "run"]
    message = fails(capsys, "train", *options)
    assert (
        f"{runs_folder() / 'tokens'} could not be written (No space left on device): make room, or set STLIB_RUNS"
        in message
    )
    assert "--out" not in message


def test_the_bar_ends_where_the_run_does(tmp_path, monkeypatch, tiny_model):
    bar = mock.Mock()
    monkeypatch.setattr("stlib.trainer.progress_bar", bar)
    options = ["--recipe", "card", "--nli-split", "train[:96]", "--max-steps", "2", "--start", str(tiny_model)]
    assert main(["train", *options, "--out", str(tmp_path / "run")]) == 0
    assert (bar.call_args.kwargs["total"], bar().update.call_count) == (2, 2)


def test_a_folder_is_taken_for_no_model_of_the_hub(tmp_path, monkeypatch, tiny_model):
    shutil.copytree(tiny_model, tmp_path / "mine" / "model")
    monkeypatch.chdir(tmp_path)
    asked = mock.Mock(side_effect=OSError)
    monkeypatch.setattr("sentence_transformers.base.model_card.get_model_info", asked)
    save_encoder(load_encoder(Path("mine/model"), "cpu"), tmp_path / "again")
    asked.assert_not_called()


def test_what_is_written_goes_through_a_link(tmp_path, tiny_model):
    (tmp_path / "scores.json").symlink_to("real.json")
    arguments = ["--tasks", "opinion", "--protocol", "mteb", "--json", str(tmp_path / "scores.json")]
    assert main(["evaluate", str(tiny_model), *arguments]) == 0
    assert (tmp_path / "scores.json").is_symlink()
    assert json.loads((tmp_path / "real.json").read_text())["results"][0]["task"] == "opinion"


def test_tasks_are_scored_once_and_there_must_be_some(tmp_path, capsys, data_folder, tiny_model):
    arguments = ["evaluate", tiny_model, "--data", data_folder]
    assert main([*map(str, arguments), "--tasks", " sts13-sts ,,cr,sts13-sts", "--protocol", "mteb"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["sts13-sts", "cr"]
    shutil.rmtree(data_folder / "cr")
    shutil.rmtree(data_folder / "sts13-sts")
    assert "there is no task sts12-sts, sts13-sts," in fails(capsys, *arguments)


def test_a_blank_argument_is_refused(tmp_path, capsys, monkeypatch, tiny_run):
    """As an unset variable of the shell leaves it: it is no folder, and none of a pair's sentences."""
    monkeypatch.chdir(tmp_path)
    pair = ["--premise", "a", "--hypothesis", " "]
    assert (
        fails(capsys, "predict", tiny_run.folder, *pair)
        == "stlib predict: hypothesis is blank: write a value, or leave it out\n"
    )
    assert "out is blank" in fails(capsys, "train", "--out", "")
    assert list(tmp_path.iterdir()) == []


def test_the_split_of_the_environment_trains_a_fresh_head(monkeypatch, tiny_model):
    asked = []
    monkeypatch.setenv("STLIB_NLI_SPLIT", "train[:96]")
    monkeypatch.setattr("stlib.evaluate.suite", lambda *arguments: asked.append(arguments[-1]) or [])
    assert main(["evaluate", str(tiny_model), "--tasks", "nli-probe"]) == 0
    assert asked == ["train[:96]"]


@pytest.mark.parametrize(("profile", "split"), [("mini", "train[:8640]"), ("small", "train[:20000]")])
def test_a_fresh_head_is_trained_on_the_profiles_split(monkeypatch, tiny_model, profile, split):
    asked = []
    monkeypatch.setattr("stlib.evaluate.suite", lambda *arguments: asked.append(arguments[-1]) or [])
    assert main(["evaluate", str(tiny_model), "--tasks", "nli-probe", "--profile", profile, "--data", "mini"]) == 0
    assert asked == [split]


def test_data_without_profile_means_small(monkeypatch):
    monkeypatch.delenv("STLIB_PROFILE")
    parse = make_parser().parse_args
    assert chosen_profile(parse(["train", "--data", "folder"])).name == "small"
    assert chosen_profile(parse(["train", "--data", "folder", "--profile", "full"])).name == "full"
    assert chosen_profile(parse(["train"])).name == "mini"
    monkeypatch.setenv("STLIB_PROFILE", "full")
    assert chosen_profile(parse(["train", "--data", "folder"])).name == "full"


def test_it_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "stlib", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "evaluate" in done.stdout
