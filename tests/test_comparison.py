"""The comparison: its numbers against records made by hand, records that mean harm, and the page in a real browser."""

import hashlib
import json
import re
import shutil
import time
import warnings
from base64 import b64decode

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from hypothesis import given, settings
from hypothesis import strategies as st

from qcfer.evaluate.bootstrap import compare, holm
from qcfer.evaluate.scores import evaluate
from qcfer.pages.comparison import _data, _flat, comparison, neighbours, read_metric, read_run, read_runs, rows, script
from qcfer.pages.site import build_site
from qcfer.run.record import Run

EVIL = "</script></td><script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"


def value(share, n=400, half=0.02):
    return {"value": share, "low": share - half, "high": share + half, "n": n}


def scores(share, profile=None):
    part = {"accuracy": value(share), "balanced_accuracy": value(share - 0.01), "macro_f1": value(share - 0.02)}
    part["per_class"] = {"fear": {"recall": value(share - 0.2, 50), "n": 50}}
    bins = {"yaw_bins": {"frontal": {"accuracy": value(share + 0.1, 300)}}}
    return {"test": part} | bins | ({"profile": {"accuracy": value(profile, 90)}} if profile else {})


def record(created, share, *, profile=None, data="aa" * 32, ece=None, conditions=None, **more):
    raw = {"ids": {"frontalizer": "none"}, "metrics": scores(share, profile)}
    if ece is not None:
        raw["calibration"] = {"ece": value(ece)}
    made = {
        "config": {"dataset": "fer2013", "gate": {"identity": None}},
        "seed": 0,
        "created": created,
        "code": "0.1.0+09e9776616bb",
        "git_sha": "fa7cdd3e" * 5,
        "versions": {"numpy": "2.4.1"},
        "data_sha256": data,
        "ids": {"pose": "3ddfa_v2:mb05", "embedder": "effnet_lite0 weights=77 whole"},
        "counts": {"test": {"anger": 200, "fear": 200}},
        "metrics": raw["metrics"],
        "conditions": {"raw": raw} | (conditions or {}),
    }
    return made | more


def write(out, dataset, name, content):
    (out / dataset / name).mkdir(parents=True)
    (out / dataset / name / "run.json").write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def write_predictions(folder, predicted, label, *, group=None, sha=None, condition="raw"):
    images = [f"{face}.png" for face in range(len(label))]
    group = images if group is None else group
    columns = {"condition": condition, "image": images, "split": "test", "label": label, "predicted": predicted, "group": group}
    table = pd.DataFrame(columns)
    validation = table.assign(split="val", predicted=0)
    shuffled = pd.concat([table, validation]).sample(frac=1, random_state=len(str(folder)))  # the order of the rows means nothing
    shuffled.to_parquet(folder / "predictions.parquet")
    contents = [f"{face:064x}" for face in range(len(label))] if sha is None else sha
    pd.DataFrame({"image": images, "sha256": contents}).to_parquet(folder / "manifest.parquet")


GEOMETRIC = {"metrics": scores(0.58), "ids": {"frontalizer": "geometric:anny"}, "versus_raw": {"test": value(0.03, half=0.01)}}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    "Five runs: three of fer2013 (the middle one of other data), one of another set, one across."
    out = tmp_path_factory.mktemp("reports")
    write(out, "fer2013", "aaaa00000001", record("2026-11-19T08:00:00+00:00", 0.5, profile=0.4, ece=0.081))
    write(out, "fer2013", "aaaa00000002", record("2026-11-20T08:00:00+00:00", 0.6, data="bb" * 32))
    newest = record("2026-11-21T08:00:00+00:00", 0.55, profile=0.45, ece=0.05, conditions={"geometric": GEOMETRIC}, seed=1)
    newest["config"]["gate"]["identity"] = 0.3
    newest["versions"] = {"numpy": "2.4.2", "torch": "2.9"}
    write(out, "fer2013", "aaaa00000003", newest)
    write(out, "posebench", "bbbb00000001", record("2026-11-18T08:00:00+00:00", 0.7, ids={"embedder": EVIL}))
    cross = {"raw": {"test": scores(0.35)["test"]}, "geometric": {"test": scores(0.37)["test"]}}
    versus = {"geometric": {"test": value(0.02, half=0.005)}}
    across = {"config": {"train": "fer2013", "test": "posebench"}, "cross": cross, "versus_raw": versus, "data_sha256": "cc" * 32}
    write(out, "fer2013-to-posebench", "cccc00000001", across | {"created": "2026-11-22T08:00:00+00:00", "train_run": "aaaa00000003"})
    rng = np.random.default_rng(0)
    label = rng.integers(0, 7, 400)
    wrong = (label + 1) % 7
    for name, right in (("aaaa00000001", 200), ("aaaa00000002", 240), ("aaaa00000003", 220)):
        write_predictions(out / "fer2013" / name, np.where(np.arange(400) < right, label, wrong), label, group=np.arange(400) // 4)
    return out


@pytest.fixture(scope="module")
def runs(out):
    return read_runs(out)


@pytest.fixture(scope="module")
def table(runs):
    return {(row["run"]["id"], row["condition"]): row for row in rows(runs)}


# ---- the numbers


def test_a_row_for_each_run_and_condition_the_newest_run_first(table):
    assert list(table) == [
        ("cccc00000001", "raw"),
        ("cccc00000001", "geometric"),
        ("aaaa00000003", "raw"),
        ("aaaa00000003", "geometric"),
        ("aaaa00000002", "raw"),
        ("aaaa00000001", "raw"),
        ("bbbb00000001", "raw"),
    ]


def test_a_row_holds_the_records_numbers(table):
    row = table["aaaa00000001", "raw"]
    assert (row["test"], row["profile"], row["f1"], row["ece"]) == (value(0.5), value(0.4, 90), value(0.48), value(0.081))
    assert (row["dataset"], row["embedder"], row["pose"], row["code"]) == ("fer2013", "effnet_lite0", "3ddfa_v2", "0.1.0+09e9776616bb")
    assert table["aaaa00000002", "raw"]["profile"] is None and table["aaaa00000003", "geometric"]["ece"] is None
    assert table["bbbb00000001", "raw"]["pose"] == "none"


def test_a_difference_stands_only_where_the_data_are_the_same(table):
    said = {key: (row["said"], row["delta"] and round(row["delta"]["value"], 9)) for key, row in table.items()}
    assert said["aaaa00000003", "raw"] == ("baseline", None)
    assert said["aaaa00000003", "geometric"] == ("same run, paired", 0.03)
    assert said["aaaa00000002", "raw"] == ("other data, not comparable", None)
    assert said["aaaa00000001", "raw"] == ("not paired", -0.05)
    assert said["cccc00000001", "geometric"] == ("same run, paired", 0.02)
    assert table["aaaa00000003", "geometric"]["delta"] == value(0.03, half=0.01)
    assert "low" not in table["aaaa00000001", "raw"]["delta"]


def test_the_runs_method_stands_beside_the_pictures_as_they_are(tmp_path):
    for day, main in (("01", "oracle"), ("02", None)):  # named by the record; else found in the settings
        turned = {"oracle": GEOMETRIC, "plain": GEOMETRIC, "geometric": GEOMETRIC, "geometric+raw": GEOMETRIC}
        content = record(f"2026-01-{day}", 0.5, profile=0.4, conditions=turned)
        content["config"]["conditions"] = ["plain", "geometric+raw", "geometric"]
        write(tmp_path, "set", f"run{day}", content | ({"main": main} if main else {}))
    newest, oldest = read_runs(tmp_path)
    assert (newest["main"], oldest["main"]) == ("geometric", "oracle")
    marked = [row for row in rows([newest, oldest]) if row["is_main"]]
    assert [row["condition"] for row in marked] == ["geometric", "oracle"]
    assert [(row["test"], row["test_raw"], row["profile_raw"]) for row in marked] == [(value(0.58), value(0.5), value(0.4, 90))] * 2
    page = BeautifulSoup(comparison([newest]), "html.parser")
    (row,) = [row for row in page.tbody("tr") if "the run's method" in row.get_text()]
    assert row.th["data-value"] == "geometric" and "as they are 50.0" in row.get_text()


@pytest.mark.parametrize("config", [{"conditions": 7}, {"conditions": [["raw"]]}, {"conditions": ["nobody:knows?this"]}, {}])
def test_settings_that_make_no_sense_leave_raw_as_the_method(tmp_path, config):
    content = record("2026-01-01", 0.5, conditions={"nobody:knows?this": GEOMETRIC})
    write(tmp_path, "set", "run", content | {"config": config})
    assert [run["main"] for run in read_runs(tmp_path)] == ["raw"]


def test_a_record_of_a_newer_form_is_named_and_left_out(tmp_path):
    write(tmp_path, "set", "run", record("2026-01-01", 0.5) | {"schema": 99})
    with pytest.warns(UserWarning, match="found schema 99.*left out of the pages"):
        assert read_runs(tmp_path) == []


def test_without_a_hash_of_the_data_nothing_is_comparable(tmp_path):
    for day, share in ((1, 0.5), (2, 0.6)):
        write(tmp_path, "set", f"run{day}", record(f"2026-01-0{day}", share, data=None))
    assert [row["said"] for row in rows(read_runs(tmp_path))] == ["baseline", "other data, not comparable"]


def test_a_set_without_raw_pictures_has_no_baseline(tmp_path):
    content = record("2026-01-01", 0.5)
    content["conditions"] = {"oracle": content["conditions"]["raw"]}
    write(tmp_path, "set", "run", content)
    assert [row["said"] for row in rows(read_runs(tmp_path))] == ["no baseline"]


def test_what_evaluate_writes_is_read_back(tmp_path):
    rng = np.random.default_rng(1)
    label = rng.integers(0, 7, 300)
    faces = pd.DataFrame({"label": label, "predicted": (label + rng.integers(0, 2, 300)) % 7, "group": np.arange(300), "split": "test"})
    metrics = evaluate(faces.assign(yaw=rng.normal(0, 40, 300), usage=["a", "b"] * 150), n_boot=50)
    write(tmp_path, "set", "run", {"created": "2026-01-01", "config": {}, "metrics": metrics})
    found = read_runs(tmp_path)[0]["conditions"]["raw"]["metrics"]
    assert found["test accuracy"] == metrics["test"]["accuracy"]
    assert found["profile macro F1"] == metrics["profile"]["macro_f1"]
    assert found["a balanced accuracy"] == metrics["usage"]["a"]["balanced_accuracy"]
    assert found["recall of fear"] == metrics["test"]["per_class"]["fear"]["recall"]
    assert {f"{name} accuracy" for name in metrics["yaw_bins"]} < set(found)


# ---- the paired comparison of neighbours


def test_neighbours_are_compared_on_the_same_faces(out, runs):
    found = neighbours(runs)
    assert [(row["older"]["id"][-1], row["newer"]["id"][-1]) for row in found] == [("2", "3"), ("1", "2")]
    label = np.random.default_rng(0).integers(0, 7, 400)
    order = np.argsort([f"{face}.png" for face in range(400)])
    a, b = (np.where(np.arange(400) < right, label, (label + 1) % 7) for right in (200, 240))
    expected = compare(label[order], a[order], b[order], (np.arange(400) // 4)[order])
    assert {name: found[1][name] for name in expected} == expected
    assert found[1]["value"] == pytest.approx(0.1)
    assert [row["p"] for row in found] == pytest.approx(list(holm([row["p_permutation"] for row in found])))


def test_the_number_of_pairs_is_capped(runs):
    assert [(row["older"]["id"][-1], row["newer"]["id"][-1]) for row in neighbours(runs, limit=1)] == [("2", "3")]
    assert neighbours(runs, limit=0) == []


ODD = {
    "another label": {"label": np.ones(8, int)},
    "another group": {"group": np.arange(8) // 2},
    "another picture of the same name": {"sha": ["f" * 64] * 8},
    "a picture without a hash": {"sha": [None] * 8},
    "another condition": {"condition": "oracle"},
}


@pytest.mark.parametrize("odd", ODD)
def test_other_faces_are_not_paired(tmp_path, odd):
    zeros = np.zeros(8, int)
    for day in (1, 2):
        write(tmp_path, "set", f"run{day}", record(f"2026-01-0{day}", 0.5))
        write_predictions(tmp_path / "set" / f"run{day}", zeros, **({"label": zeros} | (ODD[odd] if day == 2 else {})))
    assert neighbours(read_runs(tmp_path)) == []


def test_fewer_faces_and_faces_twice_are_not_paired(tmp_path):
    for day, count in ((1, 8), (2, 7), (3, 8)):
        write(tmp_path, "set", f"run{day}", record(f"2026-01-0{day}", 0.5))
        write_predictions(tmp_path / "set" / f"run{day}", np.zeros(count, int), np.zeros(count, int))
    path = tmp_path / "set" / "run1" / "predictions.parquet"
    pd.concat([pd.read_parquet(path)] * 2).to_parquet(path)
    shutil.rmtree(tmp_path / "set" / "run2")
    assert neighbours(read_runs(tmp_path)) == []


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"no table", None])
def test_damaged_predictions_are_named_and_not_paired(tmp_path, damage):
    zeros = np.zeros(8, int)
    for day in (1, 2):
        write(tmp_path, "set", f"run{day}", record(f"2026-01-0{day}", 0.5))
        write_predictions(tmp_path / "set" / f"run{day}", zeros, zeros)
    path = tmp_path / "set" / "run1" / "predictions.parquet"
    pd.DataFrame({"image": ["a"]}).to_parquet(path) if damage is None else path.write_bytes(damage)
    with pytest.warns(UserWarning, match="run1; found .*: not paired"):
        assert neighbours(read_runs(tmp_path)) == []


# ---- records that cannot be trusted

DAMAGED = {
    "empty": "",
    "torn": '{"metrics": {"test"',
    "list": "[]",
    "text": '"metrics"',
    "foreign": '{"name": "package", "version": 1}',
    "odd metrics": '{"metrics": 3}',
    "no condition": '{"conditions": {}}',
    "deep": '{"metrics": {}, "config": ' + 50_000 * "[" + 50_000 * "]" + "}",
    "deeper than shown": '{"metrics": {}, "config": ' + 970 * '{"a":' + "1" + 970 * "}" + "}",
    "long number": '{"metrics": {}, "seed": ' + 5000 * "9" + "}",
    "code": "__import__('os').abort()",
    "latin": b"\xff\xfe{}",
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_and_foreign_records_are_named_and_left_out(tmp_path, damage):
    write(tmp_path, "set", "good", record("2026-01-01", 0.5))
    write(tmp_path, "set", "odd", "")
    content = DAMAGED[damage]
    (tmp_path / "set" / "odd" / "run.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.warns(UserWarning, match="expected .*odd.*; found .*: left out of the pages") as caught:
        assert [run["id"] for run in read_runs(tmp_path)] == ["good"]
    assert len(caught) == 1 and "\n" not in str(caught[0].message)


def test_a_folder_of_the_records_name_is_left_out(tmp_path):
    (tmp_path / "set" / "odd" / "run.json").mkdir(parents=True)
    with pytest.warns(UserWarning, match="left out"):
        assert read_runs(tmp_path) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.just(EVIL),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            "metrics conditions cross ids config versions counts created code data_sha256 raw oracle test profile yaw_bins usage per_class "
            "accuracy macro_f1 recall value low high n calibration ece versus_raw embedder pose seed __proto__ constructor".split()
        )
        | st.text(max_size=3),
        inner,
        max_size=5,
    ),
    max_leaves=40,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(["metrics", "conditions", "cross", "ids", "config", "created", "main"]), JSON), max_size=3))
def test_whatever_a_record_holds_the_page_is_whole(tmp_path_factory, records):
    out = tmp_path_factory.mktemp("reports")
    for place, content in enumerate(records):
        write(out, "set", f"run{place}", {"config": {}} | content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        page = BeautifulSoup(comparison(read_runs(out)), "html.parser")
    assert [tag.get("type") for tag in page("script")] == ["application/json"] and not page("img")
    told = json.loads(page.script.string)
    assert len(page.tbody("tr") if page.tbody else []) == sum(len(run["conditions"]) for run in told["runs"])


@given(st.integers() | st.floats() | st.booleans() | st.text() | st.none())
def test_only_finite_numbers_are_numbers(number):
    found = read_metric({"value": number})
    fits = isinstance(number, (int, float)) and not isinstance(number, bool) and abs(number) < 1e300
    assert found == ({"value": float(number), "low": None, "high": None, "n": None} if fits else None)


def test_nested_settings_are_named_by_their_path():
    nested = {"a": {"b": 1, "c": {"d": [1, {"e": None}]}}, "f": {}, "g": None, "h": "x"}
    assert _flat(nested) == {"a.b": "1", "a.c.d": '[1, {"e": null}]', "g": "", "h": "x"}
    assert _flat({}) == {}


def hostile(evil):
    "A record that holds a script wherever a text may stand."
    return {
        "config": {evil: evil, "list": [evil]},
        "seed": evil,
        "created": f"9999{evil}",
        "code": f"{evil}+{evil}",
        "git_sha": evil,
        "versions": {evil: evil},
        "data_sha256": evil,
        "ids": {"pose": evil, "embedder": evil, evil: evil},
        "counts": {evil: {evil: evil}},
        "conditions": {evil: {"metrics": scores(0.4) | {"usage": {evil: {"accuracy": value(0.3)}}}, "ids": {evil: f"{evil}!"}}},
    }


def test_a_script_in_every_string_stays_text(tmp_path):
    write(tmp_path, "<b>set", "<i>run", hostile(EVIL))
    html = comparison(read_runs(tmp_path))
    page = BeautifulSoup(html, "html.parser")
    assert html.count("<script") == 1 and html.count("</script") == 1 and "<img" not in html
    assert not page("b") and not page("i")
    row = page.tbody.tr
    assert row.th["data-value"] == EVIL and row["data-dataset"] == "<b>set" and row.code.get_text() == "<i>run"
    told = json.loads(page.script.string)["runs"][0]
    assert told["facts"]["Setting"] == {EVIL: EVIL, "list": json.dumps([EVIL])}


# ---- the script and its policy


def test_the_policy_names_this_script_and_no_other():
    element, allowed = script()
    source = re.fullmatch(r"<script>(.*)</script>", element, re.DOTALL)[1]
    assert b64decode(allowed.strip("'").removeprefix("sha256-")) == hashlib.sha256(source.encode()).digest()
    assert "</script" not in source and "<!--" not in source
    assert not re.search(r"\b(eval|Function|innerHTML|outerHTML|insertAdjacentHTML|document\.write|fetch|XMLHttpRequest|import)\b", source)


# ---- in a browser

WIDTHS = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}


@pytest.fixture(scope="module")
def site(out):
    return build_site(out).parent


@pytest.fixture
def open_page(browser):
    "Opens pages, and fails when one of them complains or asks for anything."
    complaints, contexts = [], []

    def opened(path, size="desktop", **options):
        contexts.append(browser.new_context(viewport=WIDTHS[size], **options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: request.url.startswith(("file:", "data:")) or complaints.append(request.url[:100]))
        page.goto(path.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


def shown(page, column):
    "The first line of each visible cell of a column, from the top."
    lines = page.evaluate(f"""[...document.querySelectorAll('#runs tbody tr')].filter(row => !row.hidden)
        .map(row => row.cells[{column}].firstChild.textContent)""")
    return [line.strip().replace("\xa0", " ") for line in lines]


def head(page, name):
    return page.locator("#runs thead th", has_text=name)


def arrow(page, name):
    return head(page, name).get_by_role("button").evaluate("button => getComputedStyle(button, '::after').content")


def test_the_table_sorts_both_ways(site, open_page):
    page = open_page(site / "comparison.html")
    assert shown(page, 3) == ["35.0 %", "37.0 %", "55.0 %", "58.0 %", "60.0 %", "50.0 %", "70.0 %"]
    head(page, "Test accuracy").get_by_role("button").click()
    assert shown(page, 3) == ["70.0 %", "60.0 %", "58.0 %", "55.0 %", "50.0 %", "37.0 %", "35.0 %"]
    assert head(page, "Test accuracy").get_attribute("aria-sort") == "descending"
    assert (arrow(page, "Test accuracy"), arrow(page, "Dataset")) == ('"↓"', '"↕"')
    assert page.text_content("#said") == "Sorted by test accuracy, highest first."
    page.keyboard.press("Enter")  # the button still has the focus
    assert shown(page, 3) == ["35.0 %", "37.0 %", "50.0 %", "55.0 %", "58.0 %", "60.0 %", "70.0 %"]
    assert head(page, "Test accuracy").get_attribute("aria-sort") == "ascending"
    assert arrow(page, "Test accuracy") == '"↑"'
    head(page, "Dataset").get_by_role("button").click()
    assert shown(page, 1) == ["fer2013"] * 4 + ["fer2013-to-posebench"] * 2 + ["posebench"]
    assert page.locator("#runs [aria-sort]").count() == 1


def test_what_was_not_measured_stays_below(site, open_page):
    page = open_page(site / "comparison.html")
    for expected in (["8.1 %", "5.0 %"], ["5.0 %", "8.1 %"]):
        head(page, "ECE").get_by_role("button").click()
        assert shown(page, 7) == expected + ["not measured"] * 5


def test_the_keyboard_sorts(site, open_page):
    page = open_page(site / "comparison.html")
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Profile accuracy":
            break
    page.keyboard.press("Space")
    assert shown(page, 5)[:3] == ["45.0 %", "40.0 %", "not measured"]


def test_the_filter_leaves_one_dataset(site, open_page):
    page = open_page(site / "comparison.html")
    assert page.locator("#dataset option").all_text_contents() == ["all", "fer2013", "fer2013-to-posebench", "posebench"]
    page.select_option("#dataset", "posebench")
    assert shown(page, 3) == ["70.0 %"] and page.text_content("#said") == "1 of 7 rows."
    head(page, "Test accuracy").get_by_role("button").click()
    assert shown(page, 3) == ["70.0 %"]
    page.select_option("#dataset", "")
    assert len(shown(page, 3)) == 7


def chosen(page, start, end):
    for select, name in (("#from", start), ("#to", end)):
        page.select_option(select, label=next(text for text in page.locator(f"{select} option").all_text_contents() if name in text))


def lines(page, name):
    found = page.get_by_role("region", name=name, exact=True).locator("tbody tr").all()
    return [[text.replace("\xa0", " ").strip() for text in row.locator("th, td").all_inner_texts()] for row in found]


def test_two_runs_are_chosen_and_their_difference_is_read(site, open_page):
    page = open_page(site / "comparison.html")
    chosen(page, "aaaa00000001", "aaaa00000003")
    differs = {row[0].split("\n")[0]: row[1:] for row in lines(page, "What differs")}
    assert differs == {
        "gate.identity": ["none", "0.3"],
        "frontalizer, geometric": ["–", "geometric:anny"],
        "numpy": ["2.4.1", "2.4.2"],
        "torch": ["–", "2.9"],
        "seed": ["0", "1"],
    }
    metrics = {row[0]: row[1:] for row in lines(page, "Metrics of raw")}
    assert [" ".join(cell.split()) for cell in metrics["test accuracy"]] == [
        "+5.0",
        "50.0 % 48.0 to 52.0 % n = 400",
        "55.0 % 53.0 to 57.0 % n = 400",
    ]
    assert metrics["ECE"][0] == "\N{MINUS SIGN}3.1" and "recall of fear" in metrics
    text = page.inner_text("#change")
    assert "not paired face by face" in text and "To alone has the conditions geometric." in text
    assert "do not rest on the same data" not in text


def test_a_paired_comparison_turns_round_with_the_choice(site, open_page):
    page = open_page(site / "comparison.html")
    chosen(page, "aaaa00000001", "aaaa00000002")
    ((name, there, faces, p),) = lines(page, "Paired comparison")
    chosen(page, "aaaa00000002", "aaaa00000001")
    ((_, back, _, _),) = lines(page, "Paired comparison")
    assert (name, faces, p) == ("raw", "400", "0.004")  # ten groups all to one side, 2 / 2^10, and of two tests the smaller
    there, back = ([float(number) for number in re.findall(r"[-\d.]+", cell.replace("\N{MINUS SIGN}", "-"))] for cell in (there, back))
    assert there[0] == 10.0 and back == [-there[0], -there[2], -there[1]]
    assert "do not rest on the same data" in page.inner_text("#change")


def test_the_same_run_twice_and_the_first_choice(site, open_page):
    page = open_page(site / "comparison.html")
    assert page.evaluate("[document.querySelector('#from').value, document.querySelector('#to').value]") == ["2", "1"]
    chosen(page, "aaaa00000001", "aaaa00000001")
    assert page.inner_text("#change") == "Choose two different runs."


@pytest.mark.parametrize("size", WIDTHS)
def test_the_page_itself_does_not_scroll_sideways(site, open_page, size):
    page = open_page(site / "comparison.html", size)
    for pair in (("aaaa00000001", "aaaa00000003"), ("bbbb00000001", "aaaa00000002")):
        chosen(page, *pair)
        assert page.evaluate("document.scrollingElement.scrollWidth - document.documentElement.clientWidth") == 0
    assert page.evaluate("document.body.dataset.ready") == "yes" and page.title().startswith("Comparison")


def test_on_a_phone_the_table_scrolls_and_its_first_column_stays(site, open_page):
    page = open_page(site / "comparison.html", "phone")
    before, inside, outside = page.evaluate("""(box => [box.querySelector('tbody th').getBoundingClientRect().left, box.scrollWidth,
        box.clientWidth])(document.querySelector('.scroll'))""")
    assert inside > 1.5 * outside
    page.focus(".scroll")
    page.keyboard.press("End") if page.evaluate("(document.querySelector('.scroll').scrollLeft = 400, false)") else None
    after = page.evaluate("document.querySelector('.scroll tbody th').getBoundingClientRect().left")
    assert abs(after - before) < 1
    assert page.is_visible("#runs tbody tr:first-child small.narrow")


def test_without_javascript_it_is_a_plain_table(site, open_page):
    page = open_page(site / "comparison.html", java_script_enabled=False)
    assert page.locator("#runs tbody tr").count() == 7
    assert page.locator("button").count() == 0
    assert not page.is_visible("#changed") and not page.is_visible("#filter")
    assert "need JavaScript" in page.inner_text("noscript")


def test_nothing_of_a_hostile_record_runs(tmp_path, open_page):
    write(tmp_path, "<b>set", "<i>run", hostile(EVIL))
    write(tmp_path, "<b>set", "other", hostile(f"{EVIL}2"))
    page = open_page(build_site(tmp_path).with_name("comparison.html"))
    assert page.title() == "Comparison \N{MIDDLE DOT} QC-FER"
    assert EVIL in page.inner_text("#change") and page.locator("img, #change script").count() == 0


def test_a_single_run_is_a_table_without_a_choice(tmp_path, open_page):
    write(tmp_path, "set", "run", record("2026-01-01", 0.5))
    page = open_page(build_site(tmp_path).with_name("comparison.html"))
    assert shown(page, 3) == ["50.0 %"] and not page.is_visible("#changed")


def test_without_any_run_the_page_says_so(tmp_path, open_page):
    page = open_page(build_site(tmp_path / "reports").with_name("comparison.html"))
    assert "No finished run yet." in page.inner_text("main")
    assert page.evaluate("document.body.dataset.ready") == "yes"


def test_a_hundred_runs_are_quick(tmp_path):
    for place in range(100):
        write(tmp_path, "set", f"run{place:03}", record(f"2026-01-01T{place:03}", 0.5, conditions={"geometric": GEOMETRIC}))
    start = time.perf_counter()
    found = read_runs(tmp_path)
    html = comparison(found)
    assert time.perf_counter() - start < 5
    assert html.count("<tr data-dataset") == 200 and len(_data(found, [])) < 1_000_000
    assert read_run(Run(tmp_path / "set" / "run000")) == found[-1]
