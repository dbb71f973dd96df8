"""A run's folder: what is written comes back, old records open, and what cannot be read is named."""
import json
from pathlib import Path

import pandas as pd
import pytest

from qcfer.run.record import Run, find_runs, read_record

EXAMPLE = Path(__file__).resolve().parent.parent / "reports" / "example"


@pytest.mark.parametrize(
    "folder, name, form, main",
    [
        (Path(__file__).parent / "data" / "record_0", "posebench", 0, "geometric"),
        (EXAMPLE / "posebench", "posebench", 1, "normalized@auto+raw+3dmm"),
        (EXAMPLE / "fer2013", "fer2013", 1, "normalized@auto+raw+3dmm"),
    ],
)
def test_committed_records_of_each_form_open(folder, name, form, main):
    run = Run(folder)
    assert run.record.get("schema", 0) == form
    assert run.main == main and run.dataset == name
    assert run.metrics["test"] == run.record["conditions"][main]["metrics"]["test"]
    assert run.raw["test"] == run.record["conditions"]["raw"]["metrics"]["test"]
    assert run.pictures("contact") is None and run.gate(main) is None and run.scaling is None


@pytest.mark.parametrize(
    "text, words",
    [
        ('{"schema": 2, "config": {}}', "expected a run record of schema 0 to 1 at .*found schema 2: a newer qcfer has made it"),
        ('{"schema": "x", "config": {}}', "found schema 'x'"),
        ('{"schema": -1, "config": {}}', "found schema -1"),
        ("{", "expected a run record in JSON at"),
        ("[]", "expected a run record with a config"),
        ('{"config": 3}', "expected a run record with a config"),
    ],
)
def test_a_record_that_cannot_be_read_says_why(tmp_path, text, words):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        Run(tmp_path).record  # noqa: B018
    assert "\n" not in str(caught.value)


def test_a_missing_record_and_a_missing_table_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a run record at .*run.json; found none"):
        read_record(tmp_path / "run.json")
    (tmp_path / "run.json").write_text(json.dumps({"config": {}}))
    with pytest.raises(FileNotFoundError, match="expected predictions.parquet in the run's folder .*found none: make the run again"):
        Run(tmp_path).test  # noqa: B018


@pytest.mark.parametrize("name", ["run.json", "scaling.parquet"])
def test_what_a_disk_has_changed_is_never_read(tmp_path, name):
    run = Run(tmp_path / "set" / "id")
    run.save_table("scaling", pd.DataFrame({"a": [0.5, 0.25]}))
    run.save_record({"config": {"dataset": "set"}, "accuracy": 0.71})
    assert run.damaged == [] and run.record["accuracy"] == 0.71 and len(run.scaling) == 2
    spoilt = bytearray((run.path / name).read_bytes())
    spoilt[spoilt.find(b"0.71") + 2 if name == "run.json" else 40] ^= 1
    (run.path / name).write_bytes(spoilt)
    again = Run(run.path)
    assert again.damaged == [name]
    with pytest.raises(ValueError, match=f"expected .*{name} as it was written; found it changed: make the run again"):
        again.record if name == "run.json" else again.scaling  # noqa: B018
    (run.path / "SHA256SUMS").unlink()  # a run of before
    assert Run(run.path).damaged == []


def test_what_is_saved_comes_back_under_one_name(tmp_path):
    run, table = Run(tmp_path / "set" / "id"), pd.DataFrame({"a": [1, 2]})
    run.save_table("scaling", table)
    run.save_gate("qwen:a/b?seed=1", table, {"embedder": table + 1, "agreement": table + 2})
    run.save_pictures("pairs qwen:a/b?seed=1", table)
    run.save_pictures("prompts", table.iloc[:0])
    run.save_record({"config": {"dataset": "set"}, "created": "now"})
    again = Run(run.path)
    pd.testing.assert_frame_equal(again.scaling, table)
    pd.testing.assert_frame_equal(again.gate("qwen:a/b?seed=1"), table)
    pd.testing.assert_frame_equal(again.gate_curve("qwen:a/b?seed=1", "agreement"), table + 2)
    pd.testing.assert_frame_equal(again.gate_curve("qwen:a/b?seed=1"), table + 1)
    assert again.pictures("pairs qwen:a/b?seed=1") is not None and again.pictures("prompts") is None
    assert again.record["schema"] == 1 and [found.path for found in find_runs(tmp_path)] == [run.path]
    assert all(path.parent == run.path for path in run.path.rglob("*"))
    assert not list(run.path.glob(".*"))


def test_nothing_of_a_record_is_left_when_it_cannot_be_written(tmp_path):
    run = Run(tmp_path / "run")
    with pytest.raises(ValueError):
        run.save_record({"config": {}, "accuracy": float("nan")})
    assert not run.is_finished and not list(tmp_path.rglob("*.json"))


def test_the_records_that_come_with_a_checkout_are_nobodys_runs(tmp_path):
    run = tmp_path / "posebench" / "0123456789ab"
    for folder in (run, tmp_path / "example" / "posebench"):
        folder.mkdir(parents=True)
        (folder / "run.json").write_text('{"config": {"dataset": "posebench"}}')
    assert [found.path for found in find_runs(tmp_path)] == [run]
    assert not find_runs(EXAMPLE.parent, "example")
