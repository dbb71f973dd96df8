import os
import shutil

import pytest
from hypothesis import settings

settings.register_profile("unhurried", deadline=None)  # measuring coverage takes time of its own
NO_CARD = "this machine has no graphics card"


@pytest.fixture(scope="session")
def fer2013():
    "The folder of an extracted FER2013."
    folder = os.environ.get("QCFER_FER2013")
    if not folder:
        pytest.skip("QCFER_FER2013 names no folder with FER2013")
    return folder


@pytest.fixture(scope="session")
def posebench_set(tmp_path_factory):
    "A small PoseBench: eight subjects, rendered once."
    from qcfer.posebench.generate import generate

    return generate(tmp_path_factory.mktemp("posebench") / "set", subjects=8, seed=3)


@pytest.fixture(scope="session")
def recogniser(tmp_path_factory):
    "A model of ArcFace's shape with random weights: a coarse average, then a linear layer."
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(0).normal(size=(147, 512)).astype(np.float32)
    nodes = [
        helper.make_node("AveragePool", ["x"], ["pooled"], kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    shapes = {"x": ["n", 3, 112, 112], "y": ["n", 512]}
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = helper.make_graph(nodes, "tiny", ends[:1], ends[1:], [numpy_helper.from_array(weights, "w")])
    path = tmp_path_factory.mktemp("arcface") / "tiny.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def browser():
    "Chromium; a test that needs it is skipped where there is none."
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("no Chromium on this machine: install Debian's chromium to test the pages")
    quiet = ["disable-gpu", "disable-background-networking", "disable-quic", "disable-component-update", "disable-sync"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", *(f"--{flag}" for flag in quiet)])
        yield browser
        browser.close()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    "With QCFER_NO_SKIP set, data and weights are there, so a skipped test is a failure, unless it needs a graphics card."
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = [report for report in (reporter.stats.get("skipped", []) if reporter else []) if NO_CARD not in str(report.longrepr)]
    if os.environ.get("QCFER_NO_SKIP") and skipped and exitstatus == 0:
        for report in skipped:
            reporter.write_line(f"skipped although nothing may be: {report.nodeid}: {report.longrepr}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
