"""Labelling a CSV file: what is kept, what is refused, what is skipped on request, and how much memory a large one takes."""

import csv
import io
import subprocess
import sys
from pathlib import Path

import pytest

from stlib import predict
from stlib.__main__ import main
from stlib.errors import UsageError
from stlib.model import load_classifier
from stlib.predict import label_file

PAIR = ["A man sleeps.", "A man rests."]


@pytest.fixture(scope="module")
def classifier(tiny_run):
    return load_classifier(tiny_run, "cpu")


def write(path, text, **options):
    with path.open("w", encoding=options.pop("encoding", "utf-8"), newline="") as file:
        file.write(text)
    return path


def read(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("chunk", [1, 2, 4_096])
def test_rows_keep_their_cells_and_order(classifier, tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(predict, "CHUNK", chunk)
    text = 'id,premise,note,hypothesis\r\n7,A man sleeps.,"a, b",A man rests.\r\n8,"Two\nlines, one cell",,"He said ""no""."\r\n9,é 東京 👩‍👩‍👧 שלום,\x07,A dog.\r\n'
    source = write(tmp_path / "pairs.csv", text, encoding="utf-8-sig")
    assert label_file(classifier, source, tmp_path / "labels.csv").startswith("3 pairs labelled in ")
    header, *rows = read(tmp_path / "labels.csv")
    assert header == ["id", "premise", "note", "hypothesis", "predicted", "entailment", "neutral", "contradiction"]
    assert [row[:4] for row in rows] == [
        ["7", "A man sleeps.", "a, b", "A man rests."],
        ["8", "Two\nlines, one cell", "", 'He said "no".'],
        ["9", "é 東京 👩‍👩‍👧 שלום", "\x07", "A dog."],
    ]
    expected = classifier.predict_proba([row[1] for row in rows], [row[3] for row in rows])
    for row, chances in zip(rows, expected, strict=True):
        assert [float(cell) for cell in row[5:]] == pytest.approx(chances, abs=2e-6)
        assert row[4] == classifier.labels[chances.argmax()]


BAD = [
    ("", "no column 'premise' (it has: nothing)"),
    ("\n", "no column 'premise'"),
    ("premise,text\na,b\n", "no column 'hypothesis' (it has: premise, text)"),
    ("premise,hypothesis,premise\na,b,c\n", "the column 'premise' twice"),
    ("premise,hypothesis\na,b\nc,\n", "no hypothesis in row 2"),
    ("premise,hypothesis\na,b\n  ,c\n", "no premise in row 2"),
    ("premise,hypothesis\na,b\nc\n", "more or fewer cells than the header in row 2"),
    ("premise,hypothesis\na,b,c\n", "more or fewer cells than the header in row 1"),
    ("premise, PREMISE ,hypothesis\na,b,c\n", "the column 'premise' twice"),
    ("premise;hypothesis\na;b\n", "(it has: premise;hypothesis): rename or add it, with commas between columns"),
    ("premise,hypothesis,predicted\na,b,neutral\n", "a column 'predicted' already"),
    ("premise,hypothesis, Predicted\na,b,neutral\n", "a column 'predicted' already"),
    ("entailment,premise,hypothesis\n0.1,a,b\n", "a column 'entailment' already"),
    ('premise,hypothesis\na,b\n"c,d\n', "could not be read as CSV after row 1"),
]


@pytest.mark.parametrize(("text", "message"), BAD, ids=range(len(BAD)))
def test_what_is_no_table_of_pairs_is_refused(classifier, tmp_path, text, message):
    source, target = write(tmp_path / "pairs.csv", text), write(tmp_path / "labels.csv", "from before")
    with pytest.raises(UsageError) as caught:
        label_file(classifier, source, target)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert target.read_text(encoding="utf-8") == "from before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.csv", "pairs.csv"]


def test_what_is_not_utf8_is_refused(classifier, tmp_path):
    (tmp_path / "pairs.csv").write_bytes(b"premise,hypothesis\na,b\ncaf\xe9,d\n")
    with pytest.raises(UsageError, match=r"could not be read as CSV after row 0 .*utf-8"):
        label_file(classifier, tmp_path / "pairs.csv", tmp_path / "labels.csv")
    with pytest.raises(UsageError, match="could not be read"):
        label_file(classifier, tmp_path, tmp_path / "labels.csv")
    with pytest.raises(UsageError, match="No such file"):
        label_file(classifier, tmp_path / "nowhere.csv", tmp_path / "labels.csv")


def test_bad_rows_are_skipped_on_request(tiny_run, tmp_path, capsys):
    source = write(tmp_path / "pairs.csv", "premise,hypothesis\na,b\n,c\nd,e,f\ng,h\n")
    arguments = ["predict", str(tiny_run.folder), "--input", str(source), "--output", str(tmp_path / "labels.csv")]
    assert main(arguments) == 2
    assert "no premise in row 2" in capsys.readouterr().err
    assert main([*arguments, "--skip-bad-rows"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("2 pairs labelled in ")
    assert printed.out.endswith("; 2 bad rows skipped: 2, 3\n")
    assert [row[:2] for row in read(tmp_path / "labels.csv")[1:]] == [["a", "b"], ["g", "h"]]


def test_its_own_output_is_refused(classifier, tmp_path):
    source = write(tmp_path / "pairs.csv", "premise,hypothesis\na,b\n")
    label_file(classifier, source, tmp_path / "labels.csv")
    with pytest.raises(UsageError, match="a column 'predicted' already"):
        label_file(classifier, tmp_path / "labels.csv", tmp_path / "again.csv")
    assert not (tmp_path / "again.csv").exists()


def test_a_file_without_rows_gives_the_header(classifier, tmp_path):
    label_file(classifier, write(tmp_path / "pairs.csv", "premise,hypothesis\n\n"), tmp_path / "labels.csv")
    assert read(tmp_path / "labels.csv") == [["premise", "hypothesis", "predicted", *classifier.labels]]


def test_a_header_keeps_its_blanks_and_capitals(classifier, tmp_path):
    """They do not matter, nor do names that are there twice, if nothing is read from them."""
    source = write(tmp_path / "pairs.csv", ", Premise ,HYPOTHESIS,note,note,\n0,a,b,c,d,e\n")
    label_file(classifier, source, tmp_path / "labels.csv")
    header, row = read(tmp_path / "labels.csv")
    assert header[:7] == ["", " Premise ", "HYPOTHESIS", "note", "note", "", "predicted"]
    assert row[:6] == ["0", "a", "b", "c", "d", "e"]


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_long_field_and_standard_input_are_read(classifier, tmp_path, monkeypatch, encoding):
    """As UTF-8, with its mark or without, whatever the terminal's encoding is; line ends inside a cell are kept."""
    text = f'premise,hypothesis\r\n"{"wörd " * 40_000}\r\n",b\r\n'
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode("utf-8-sig")), encoding))
    label_file(classifier, Path("-"), tmp_path / "labels.csv")
    assert read(tmp_path / "labels.csv")[1][0] == "wörd " * 40_000 + "\r\n"


def test_the_output_is_a_file_that_is_not_the_input(classifier, tmp_path):
    """What cannot be written is said before anything is labelled, and a folder that is missing is made."""
    source = write(tmp_path / "pairs.csv", "premise,hypothesis\na,b\n")
    for target in (tmp_path, source / "labels.csv", Path("-"), source, tmp_path / "." / "pairs.csv"):
        with pytest.raises(UsageError, match=r"choose (a|another) (file|one)"):
            label_file(classifier, source, target)
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.csv"]
    assert len(read(source)[0]) == 2
    label_file(classifier, source, tmp_path / "new" / "folder" / "labels.csv")
    assert len(read(tmp_path / "new" / "folder" / "labels.csv")) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
def test_a_link_stays_a_link_and_a_device_is_refused(classifier, tmp_path):
    source, real = write(tmp_path / "pairs.csv", "premise,hypothesis\na,b\n"), write(tmp_path / "real.csv", "old")
    (tmp_path / "link.csv").symlink_to("real.csv")
    label_file(classifier, source, tmp_path / "link.csv")
    assert (tmp_path / "link.csv").is_symlink()
    assert len(read(real)) == 2
    with pytest.raises(UsageError, match="is no file"):
        label_file(classifier, source, Path("/dev/null"))
    (tmp_path / "self.csv").symlink_to("pairs.csv")
    with pytest.raises(UsageError, match="the file to read and the file to write"):
        label_file(classifier, source, tmp_path / "self.csv")


@pytest.mark.slow
def test_a_million_rows_stream_in_bounded_memory(tiny_run, tmp_path):
    """As much memory as a hundredth of them, give or take 100 MB; the file alone has more."""
    peaks = {}
    for rows in (10_000, 1_000_000):
        source = tmp_path / f"{rows}.csv"
        with source.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["premise", "hypothesis", "note"])
            writer.writerows([f"A man with {row % 7} hats.", f"He has {row % 5}.", "x" * 100] for row in range(rows))
        code = (
            "import sys; from stlib.__main__ import main; from stlib.runs import peak_memory_mb; "
            "status = main(sys.argv[1:]); print(peak_memory_mb('cpu')); sys.exit(status)"
        )
        target = tmp_path / f"{rows}_labels.csv"
        arguments = ["predict", str(tiny_run.folder), "--input", str(source), "--output", str(target)]
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        said, peak = done.stdout.strip().splitlines()
        assert said.startswith(f"{rows:,} pairs labelled")
        peaks[rows] = int(peak)
    assert sum(1 for _ in target.open(encoding="utf-8")) == 1_000_001
    assert peaks[1_000_000] < peaks[10_000] + 100, peaks
