"""What is shipped: the wheel's content, the README, the notebooks."""
import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_the_wheel_holds_the_package_its_templates_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {path.relative_to(ROOT).as_posix() for path in (ROOT / "qcfer").rglob("*.py")}
    expected |= {"qcfer/py.typed", "qcfer/__init__.pyi"}
    expected |= {f"qcfer/reports/{path.name}" for path in (ROOT / "nbs/reports").glob("*.ipynb")}
    expected |= {f"qcfer/prompts/{path.name}" for path in (ROOT / "nbs/prompts").glob("*.yaml")}
    expected |= {f"qcfer/paper_data/{path.name}" for path in (ROOT / "nbs/paper_data").iterdir()}
    expected |= {f"qcfer/static/{path.name}" for path in (ROOT / "nbs/static").iterdir()}
    assert names == expected


def test_the_package_runs_from_the_wheel_alone(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "from qcfer.core import files\n"
        "from qcfer.frontalize import review\n"
        "from qcfer.pages import comparison, site\n"
        "assert 'site/qcfer' in files.__file__\n"
        "assert 'site/qcfer' in str(files.resources('static')) and comparison.script() and review._assets()\n"
        "print(sorted(path.name for path in files.resources('reports').iterdir()))"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert "confusion.ipynb" in answer.stdout


def test_the_readme_is_fresh():
    spec = importlib.util.spec_from_file_location("readme", ROOT / ".ci" / "readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text, pictures = module.readme()
    assert (ROOT / "README.md").read_text(encoding="utf-8") == text
    for path, data in pictures.items():
        assert (ROOT / path).read_bytes() == data
        assert path in text
