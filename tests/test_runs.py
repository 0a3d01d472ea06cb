import dataclasses
import json
from pathlib import Path

import pytest

from stlib.configure import configure
from stlib.errors import UsageError
from stlib.runs import (
    MACHINE,
    UNDECIDED,
    Run,
    RunConfig,
    check_folder,
    finished_run,
    one_writer,
    read_json,
    replacing,
    write_json,
    write_text,
)

OTHER = {
    "profile": "small", "source": "folder x", "nli_split": "test", "data_fingerprint": "0", "rows": 1, "start": "x", "seed": 7,
    "epochs": 9, "total_steps": 9, "last_step": 9, "log_every": 9, "engine": "stock", "precision": "fp16", "device": "mps",
    "processes": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def config():
    return configure("trained_head", "mini", nli_split="train[:192]")[0]


def test_run_folders_are_named_after_what_was_asked():
    assert configure("trained_head", "mini")[0].folder().name == "trained_head-mini"
    config, _ = configure("card", "mini", nli_split="validation+test", max_steps=100, seed=7)
    assert config.folder().name == "card-mini-validation_test-100steps-seed7"


def test_every_field_decides_but_for_the_name_of_the_source(config):
    found = json.loads(json.dumps(config.to_dict()))
    assert config.differs_from(found) is None
    assert {field.name for field in dataclasses.fields(RunConfig)} == {"recipe", *OTHER}
    for name, value in OTHER.items():
        changed = dataclasses.replace(config, **{name: value})
        decides = name not in UNDECIDED
        assert changed.differs_from(found) == (name if decides else None)
        assert changed.differs_from(found, UNDECIDED + MACHINE) == (name if decides and name not in MACHINE else None)
        assert changed.differs_from({key: value for key, value in found.items() if key != name}) in (name, None)


def test_every_field_of_the_recipe_decides(config):
    found = config.to_dict()
    for field in dataclasses.fields(config.recipe):
        value = getattr(config.recipe, field.name)
        other = {str: "x", bool: not value, tuple: (1,)}.get(type(value), 12_345)
        changed = dataclasses.replace(config, recipe=dataclasses.replace(config.recipe, **{field.name: other}))
        assert changed.differs_from(found) == f"recipe.{field.name}"


OLDER = {  # of a run.json that an older layout wrote
    "recipe": {"name": "trained_head", "learning_rate": 2e-5, "dropout": 0.0, "short": True}, "profile": "mini", "seed": 42,
    "device": "cpu", "data_fingerprint": "fbdac3614abd9bd7", "steps": 6, "seconds": 9.5, "rows": 192, "final_loss": 1.1,
}  # fmt: skip


def test_a_run_of_an_older_layout_is_refused_and_its_model_is_named(config, tmp_path):
    newer = {**config.to_dict(), "recipe": {**config.to_dict()["recipe"], "short": True}}
    for other in (newer, {**newer, "recipe": "trained_head"}, OLDER):
        write_json(tmp_path / "run.json", other)
        with pytest.raises(UsageError, match=r"another version wrote .*: train the run again .*, or name its model"):
            Run.load(tmp_path)
    with pytest.raises(UsageError, match="already holds a finished run"):
        check_folder(tmp_path, config, resume=False)
    assert finished_run(tmp_path, config) is None
    assert read_json(tmp_path / "run.json") == OLDER


def test_a_folder_with_other_files_is_refused(config, tmp_path):
    check_folder(tmp_path, config, resume=False)  # empty
    (tmp_path / "README.md").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="holds other files: choose a new or an empty folder"):
        check_folder(tmp_path, config, resume=False)


def test_every_process_looks_at_what_it_resumes(config, tmp_path, monkeypatch):
    write_json(tmp_path / "unfinished.json", {**config.to_dict(), "seed": 7})
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("LOCAL_RANK", rank)
        with pytest.raises(UsageError, match="started with another seed"):
            check_folder(tmp_path, config, resume=True)
    check_folder(tmp_path, config, resume=False)  # the first one writes already


def test_a_run_of_an_older_version_differs(config):
    older = {**config.to_dict(), "recipe": {**config.to_dict()["recipe"], "short": False}}
    assert config.differs_from(older) == "recipe.short"
    assert config.differs_from({"recipe": "trained_head"}) == "recipe"


def test_json_is_strict_and_whole(tmp_path):
    path = tmp_path / "some.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": 1}
    assert [found.name for found in tmp_path.iterdir()] == ["some.json"]
    path.write_text('{"a": 1')
    with pytest.raises(UsageError, match="is no JSON"):
        read_json(path)


def test_two_may_write_one_file(tmp_path):
    path = tmp_path / "README.md"
    with replacing(path) as first:
        first.write("one, of the first")
        write_text(path, "of the other")
        assert path.read_text(encoding="utf-8") == "of the other"
    assert path.read_text(encoding="utf-8") == "one, of the first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_has_one_lock_by_whichever_name(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    monkeypatch.chdir(tmp_path / "run")
    with one_writer(tmp_path / "run"):
        for name in (tmp_path / "link", Path()):
            with pytest.raises(UsageError, match="another process is training into"), one_writer(name):
                pytest.fail("two write")
    assert list((tmp_path / "run").iterdir()) == []


def test_steps_of_the_published_run():
    config, _ = configure("card", "mini", nli_split="train[:100]")
    assert (config.total_steps, config.epochs) == (4 * 4, 4)  # the last, smaller batch of each pass counts


def test_the_default_engine_is_packed_where_it_is_proven(monkeypatch):
    for device, engine in {"cpu": "packed", "cuda": "stock", "mps": "stock"}.items():
        monkeypatch.setattr("stlib.configure.best_device", lambda device=device: device)
        monkeypatch.setattr("stlib.configure.best_precision", lambda device: "fp32")
        assert configure("trained_head", "mini", nli_split="train[:192]")[0].engine == engine
