"""A short campaign of kills and spoilt files: what `make chaos` does at length, on the jobs that take a second."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

@pytest.mark.skipif(not hasattr(os, "fork"), reason="jobs are killed in children of one process")
def test_nothing_is_lost_to_kills_and_spoilt_files(tmp_path):
    command = [sys.executable, Path(__file__).parent / "chaos.py", "--jobs", "review,predict", "--kills", "4", "--rounds", "1"]
    done = subprocess.run([*map(str, command), "--to", str(tmp_path / "chaos.json")], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "chaos.json").read_text())
    assert told["faults"] == {}
    assert {"kill: review", "kill: predict", "a bit: answers so far", "no locks"} <= set(told["jobs"])
    assert sum(row["tried"] for row in told["jobs"].values()) >= 10
    assert all(row["tried"] == row["survived"] == row["mended"] for row in told["jobs"].values())
    assert "| kill: review |" in done.stdout
