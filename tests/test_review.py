"""The review: ten decisions by keyboard in a real browser and a server that is killed; strangers; torn files; hostile names."""

import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from base64 import urlsafe_b64decode
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from qcfer.core.labels import CLASSES
from qcfer.data.cartoons import draw_face
from qcfer.frontalize.gate import Thresholds, judge, reasons
from qcfer.frontalize.review import HEADERS, Journal, _faces, apply_verdicts, make_app, read_verdicts, serve

EVIL = "<img src=x onerror=\"document.title='evil'\">.png"
PROGRAM = """
import sys
from pathlib import Path
import pandas as pd
from PIL import Image
from qcfer.frontalize.review import serve
folder = Path(sys.argv[1])
judged = pd.read_parquet(folder / "judged.parquet")
class Pictures:
    def __init__(self, kind): self.kind = kind
    def __len__(self): return len(judged)
    def __getitem__(self, row): return Image.open(folder / self.kind / f"{row}.png")
serve(judged, Pictures("original"), Pictures("frontalized"), folder / "journal.jsonl", announce=lambda said: print(said, flush=True))
"""


def table(n=24):
    rng = np.random.default_rng(0)
    judged = pd.DataFrame({"key": [f"{row:02d}" * 32 for row in range(n)], "label": np.arange(n) % 7})
    judged["image"] = [f"{CLASSES[label]}/{row:03d}.png" for row, label in enumerate(judged["label"])]
    judged.loc[0, "image"] = EVIL
    judged["yaw"] = rng.choice([-1, 1], n) * rng.uniform(31, 75, n)
    judged["embedder"] = np.linspace(0.6, 0.97, n)
    judged["agreement"] = rng.uniform(0.2, 1, n)
    judged["residual_yaw"] = rng.uniform(0, 30, n)
    judged.loc[judged.index == 3, "agreement"] = np.nan
    gate = Thresholds(identity=None)
    return judged.assign(verdict=judge(judged, gate), reason=reasons(judged, gate))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    "A folder with a table of judged faces and their pictures."
    folder = tmp_path_factory.mktemp("review")
    judged = table()
    judged.to_parquet(folder / "judged.parquet")
    for kind in ("original", "frontalized"):
        (folder / kind).mkdir()
        for row, face in enumerate(judged.itertuples()):
            draw_face(CLASSES[face.label], face.yaw * (kind == "original"), seed=row, size=160).save(folder / kind / f"{row}.png")
    return folder


@pytest.fixture
def folder(drawn, tmp_path):
    for item in drawn.iterdir():
        (tmp_path / item.name).symlink_to(item)
    return tmp_path


@contextmanager
def server(folder):
    "The review in a process of its own; yields the process and its address."
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def ask(address, path="", method="GET", body=None, host=None):
    "Status, headers and body of one request, the path sent as it is."
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
    headers = {"Host": host or parts.netloc, "Content-Type": "application/json"}
    connection.request(method, parts.path + path if not path.startswith("/") else path, json.dumps(body) if body else None, headers)
    reply = connection.getresponse()
    return reply.status, dict(reply.getheaders()), reply.read()


def until(holds, what, seconds=15):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"waited for {what}"
        time.sleep(0.02)


@contextmanager
def opened(browser, address, width=1280, height=900):
    "A page of the review, ready; no error in it and no request to anybody else until it is closed."
    context = browser.new_context(viewport={"width": width, "height": height})
    page = context.new_page()
    wrong, asked = [], []
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    until(lambda: page.evaluate("document.body.dataset.ready === 'yes'"), "the page")
    yield page
    context.close()
    assert not wrong
    assert {urlsplit(url).netloc for url in asked} == {urlsplit(address).netloc}


def text(page, selector):
    return page.inner_text(selector)


def press(page, key, count):
    "Press a key and wait until so many are decided."
    page.keyboard.press(key)
    until(lambda: text(page, "#count").startswith(f"{count} of"), f"{count} decisions")


def test_ten_decisions_survive_a_kill(browser, folder):
    keys = list("aarraarara")
    with server(folder) as (process, address):
        with opened(browser, address) as page:
            for number, key in enumerate(keys, 1):
                press(page, key, number)
        process.send_signal(signal.SIGKILL)
        process.wait()
        decided = read_verdicts(folder / "journal.jsonl")
        assert decided["verdict"].tolist() == [{"a": "accept", "r": "revert"}[key] for key in keys]
        assert decided["key"].tolist() == table()["key"].tolist()[:10]  # the lowest score first
    with open(folder / "journal.jsonl", "ab") as file:
        file.write(b'{"key": "1010')  # what a kill in the middle of the eleventh would leave
    with server(folder) as (_, address), opened(browser, address) as page:
        assert text(page, "#count") == "10 of 24 decided"
        assert text(page, "#name") == table()["image"][10]  # it goes on where it stopped
        press(page, "A", 11)
        press(page, "u", 10)
        press(page, "u", 9)
        assert "fear/009.png: not decided again." in text(page, "#said")
        assert (text(page, "#name"), text(page, "#yours")) == ("fear/009.png", "not yet decided")
    assert read_verdicts(folder / "journal.jsonl")["key"].tolist() == table()["key"].tolist()[:9]


def test_undo_brings_the_earlier_verdict_back(browser, folder):
    with server(folder) as (_, address), opened(browser, address) as page:
        press(page, "a", 1)
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("r")
        until(lambda: "reverted" in text(page, "#said"), "the second decision")
        page.keyboard.press("u")
        until(lambda: "accepted again" in text(page, "#said"), "the undo")
        assert text(page, "#yours") == "accepted"
        press(page, "u", 0)
        page.keyboard.press("u")
        until(lambda: text(page, "#said") == "Nothing to undo.", "the answer")
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    assert [line["verdict"] for line in lines] == ["accept", "revert", "accept", "undo"]
    assert read_verdicts(folder / "journal.jsonl").empty


def test_a_page_whose_server_is_gone_says_so(browser, folder):
    with server(folder) as (process, address):
        page = browser.new_page()
        page.goto(address)
        until(lambda: page.evaluate("document.body.dataset.ready === 'yes'"), "the page")
        process.kill()
        process.wait()
        page.keyboard.press("a")
        until(lambda: text(page, "#said").startswith("Not saved: the review has ended."), "the message")
        assert text(page, "#count") == "0 of 24 decided" and text(page, "#name") == EVIL
        page.close()


def test_names_are_text_and_never_html(browser, folder):
    with server(folder) as (_, address), opened(browser, address) as page:
        assert text(page, "#name") == EVIL and page.title() == "Review · QC-FER"
        assert page.get_attribute("#original", "alt") == f"{EVIL}, original"
        press(page, "a", 1)
        assert EVIL in text(page, "#said")
        assert page.locator("img").count() == 2


def test_the_page_says_why(browser, folder):
    "Beside each pair stands what the gate objected to; nothing where it did not, or where nobody knows."
    judged = table().drop(columns="reason")
    path = folder / "judged.parquet"
    path.unlink()
    gate = Thresholds(identity=None, agreement=0.5)
    judged = judged.assign(verdict=judge(judged, gate), reason=reasons(judged, gate))
    judged.loc[5, "reason"] = np.nan
    judged.to_parquet(path)
    assert (judged["reason"] == "").any() and judged["reason"].str.contains("agreement not measured").any()
    with server(folder) as (_, address), opened(browser, address) as page:
        for row in range(len(judged)):  # the lowest score first, which is their order
            assert text(page, "#name") == judged["image"][row]
            said = judged["reason"].fillna("")[row]
            assert text(page, "#reason") == said and page.is_visible("#reason") == bool(said), row
            page.keyboard.press("ArrowRight")


def test_filters_and_arrows(browser, folder):
    judged = table()
    with server(folder) as (_, address), opened(browser, address) as page:

        def count():
            found = re.search(r"of (\d+)$", text(page, "#about")) if page.is_visible("#face") else None
            return int(found[1]) if found else 0

        for verdict in ("accept", "revert", "review"):
            page.select_option("#verdict", verdict)
            assert count() == (judged["verdict"] == verdict).sum()
        page.select_option("#verdict", "all")
        page.select_option("#class", "fear")
        assert count() == (judged["label"] == CLASSES.index("fear")).sum() and text(page, "#about").startswith("fear, yaw")
        page.select_option("#class", "")
        page.select_option("#score", "agreement")
        page.fill("#low", "0.4")
        page.fill("#high", "0.8")
        assert count() == judged["agreement"].between(0.4, 0.8).sum()
        assert text(page, "#name") == judged["image"][judged["agreement"].where(judged["agreement"] >= 0.4).idxmin()]
        page.fill("#low", "2")
        assert page.is_visible("#empty") and page.is_disabled("#accept")
        page.fill("#low", "")
        page.fill("#high", "")
        assert count() == len(judged)
        page.fill("#low", "0.1")
        page.keyboard.press("a")  # a letter in a field is no decision
        assert text(page, "#count").startswith("0 of")
        page.fill("#low", "")
        page.locator("#low").blur()
        for _ in range(30):
            page.keyboard.press("ArrowRight")
        assert text(page, "#name") == judged["image"][3] and "not measured" in text(page, "#scores")  # the unmeasured comes last
        assert page.is_disabled("#next")
        page.select_option("#verdict", "undecided")
        page.locator("#verdict").blur()
        press(page, "a", 1)
        page.select_option("#verdict", "all")
        page.select_option("#verdict", "undecided")
        assert count() == len(judged) - 1


@pytest.mark.parametrize("width", [1280, 390])
def test_everything_is_in_sight(browser, folder, width):
    with server(folder) as (_, address), opened(browser, address, width, 844) as page:
        press(page, "r", 1)
        shown = "[...document.images].every((image) => image.complete && image.naturalWidth === 160)"
        until(lambda: page.evaluate(shown), "both pictures")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        for name in ("original", "frontalized", "gate", "accept", "revert", "undo", "previous", "next"):
            box = page.locator(f"#{name}").bounding_box()
            assert 0 <= box["x"] and box["x"] + box["width"] <= width and box["y"] + box["height"] <= 844, name
        heights = [page.locator(f"#{name}").bounding_box()["height"] for name in ("accept", "revert", "undo")]
        assert min(heights) >= 44
        if os.environ.get("QCFER_SCREENSHOTS"):
            page.screenshot(path=f"{os.environ['QCFER_SCREENSHOTS']}/review-{width}.png")


def test_the_buttons_work_without_a_keyboard(browser, folder):
    with server(folder) as (_, address), opened(browser, address, 390, 844) as page:
        for count, name in ((1, "accept"), (2, "revert"), (1, "undo")):
            page.click(f"#{name}")
            until(lambda count=count: text(page, "#count").startswith(f"{count} of"), name)


# ---- strangers


def test_strangers_are_refused(folder):
    key = table()["key"][0]
    with server(folder) as (_, address):
        token = urlsplit(address).path
        assert len(token.strip("/")) >= 32
        assert ask(address)[0] == 200
        for path in ("/", "/favicon.ico", "/state", f"/{'x' * 32}/state", token[:-2] + "/state", f"/%00{token}state"):
            assert ask(address, path)[0] == 404, path
        for path in ("decide", "undo"):
            body = {"key": key, "verdict": "accept"}
            assert ask(address, f"/guess/{path}", "POST", body)[0] == 404
            assert ask(address, path, "POST", body, host="evil.example")[0] == 400
            assert ask(address, path)[0] == 405
        for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "www.127.0.0.1"):
            assert ask(address, "state", host=host)[0] == 400, host
    assert read_verdicts(folder / "journal.jsonl").empty


def test_slow_and_greedy_strangers_hold_nobody_up(folder):
    with server(folder) as (_, address):
        parts, lines = urlsplit(address), []
        for text in ("GET /", "POST /guess/decide HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9999999999\r\n\r\n{"):
            for _ in range(50):
                lines.append(socket.create_connection((parts.hostname, parts.port)))
                lines[-1].sendall(text.encode())
        start = time.monotonic()
        assert ask(address, "state")[0] == 200
        assert ask(address, "decide", "POST", {"key": table()["key"][0], "verdict": "accept"})[0] == 200
        assert time.monotonic() - start < 10
        lines[-1].settimeout(10)
        assert lines[-1].recv(12) == b"HTTP/1.1 404"  # before what it promised has come
        for line in lines:
            line.close()
    assert len(read_verdicts(folder / "journal.jsonl")) == 1


def test_a_token_is_drawn_anew_and_too_long_to_be_guessed(tmp_path):
    "192 bits: no number of tries is enough, so they are not counted."

    class Told(Exception):
        pass

    def announce(address):
        raise Told(urlsplit(address).path.strip("/"))

    judged, tokens = table(2), set()
    for _ in range(2):
        with pytest.raises(Told) as told:
            serve(judged, [None] * 2, [None] * 2, tmp_path / "journal", announce=announce)
        tokens.add(str(told.value))
    assert len(tokens) == 2 and all(len(urlsafe_b64decode(token)) == 24 for token in tokens)


@pytest.mark.skipif(not os.path.exists("/proc/net/tcp"), reason="only Linux tells who listens where in /proc")
def test_it_listens_to_this_machine_only(folder):
    with server(folder) as (process, address):
        assert urlsplit(address).hostname == "127.0.0.1"
        port = f"{urlsplit(address).port:04X}"
        lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/{process.pid}/net/{name}").read_text().splitlines()[1:]]
        assert {line[1] for line in lines if line[3] == "0A" and line[1].endswith(f":{port}")} == {f"0100007F:{port}"}


def test_every_answer_carries_the_policy(folder):
    with server(folder) as (_, address):
        for path in ("", "review.js", "state", "absent", "/guess/", f"picture/original/{table()['key'][0]}"):
            headers = {name.lower(): value for name, value in ask(address, path)[1].items()}
            assert {name: headers.get(name) for name in HEADERS} == HEADERS, path
        assert "'unsafe" not in HEADERS["content-security-policy"] and "http" not in HEADERS["content-security-policy"]


def test_only_keys_lead_to_pictures(folder):
    paths = ["../judged.parquet", "..%2f..%2fjudged.parquet", "%2fetc%2fpasswd", "original/0.png", "0", "", "%00", "__proto__", "é" * 3000]
    with server(folder) as (_, address):
        for path in paths:
            for kind in ("original", "frontalized", "..", "%2e%2e", "journal.jsonl"):
                status, _, body = ask(address, f"picture/{kind}/{path}".replace("é", "%C3%A9"))
                assert status == 404 and body in (b"not found", b"Not Found"), path
        status, headers, body = ask(address, f"picture/frontalized/{table()['key'][5]}")
        assert (status, headers["content-type"], body[:4]) == (200, "image/png", b"\x89PNG")


@pytest.mark.parametrize(
    "body",
    [None, [1], "accept", {"key": "x"}, {"key": "x", "verdict": "accept"}]
    + [{"key": "00" * 32, "verdict": "undo"}, {"key": [], "verdict": "revert"}],
)
def test_odd_decisions_are_refused_and_not_written(folder, body):
    with server(folder) as (_, address):
        assert ask(address, "decide", "POST", body)[0] == 400
        assert ask(address, "state")[0] == 200
    assert (folder / "journal.jsonl").read_bytes() == b""


def test_a_picture_that_vanished_is_no_crash(folder, drawn):
    (folder / "original").unlink()
    with server(folder) as (_, address):
        assert ask(address, f"picture/original/{table()['key'][0]}")[0] == 404
        assert ask(address, f"picture/frontalized/{table()['key'][0]}")[0] == 200


def test_an_interrupt_ends_it_quietly(folder):
    with server(folder) as (process, address):
        assert ask(address)[0] == 200
        process.send_signal(signal.SIGINT)
        assert (process.wait(timeout=20), process.stdout.read()) == (0, "")


def test_a_full_disk_is_told_and_nothing_half_is_left(tmp_path):
    "With a limit on the size of files, as a full disk would: the decision is refused, what was there stays whole."
    path = tmp_path / "journal.jsonl"
    program = f"""
import resource, signal
from qcfer.frontalize.review import Journal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (260, 260))
journal, done = Journal({str(path)!r}), 0
try:
    while True:
        journal.decide(f"key {{done}}", "accept")
        done += 1
except OSError as error:
    print(done, len(journal.verdicts), error.strerror)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split(maxsplit=2)
    assert said[0] == said[1] == str(len(read_verdicts(path))) != "0"
    assert path.read_bytes().endswith(b"}\n")


# ---- the journal


STEPS = st.lists(st.one_of(st.just("undo"), st.tuples(st.sampled_from("abc"), st.sampled_from(["accept", "revert"]))), max_size=12)


@given(STEPS, st.integers(0, 12))
@settings(max_examples=60, deadline=None)
def test_the_journal_equals_a_stack_of_states(tmp_path_factory, steps, restart):
    "Undo after undo leads back through every earlier state, whether or not the process was another one."
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    states, journal = [{}], Journal(path)
    for number, step in enumerate(steps):
        if number == restart:
            journal.close()
            journal = Journal(path)
        if step == "undo":
            assert (journal.undo() is None) == (len(states) == 1)
            states = states[:-1] or states
        else:
            journal.decide(*step)
            states.append(states[-1] | {step[0]: step[1]})
        assert journal.verdicts == states[-1]
    journal.close()
    assert read_verdicts(path).set_index("key")["verdict"].to_dict() == states[-1]


def test_a_journal_that_is_cut_anywhere_keeps_every_whole_line(tmp_path):
    path = tmp_path / "whole.jsonl"
    with Journal(path) as journal:
        for number in range(4):
            journal.decide(f"ke\u00fd {number}", "accept")
    whole = path.read_bytes()
    ends = [place for place in range(len(whole)) if whole[place : place + 1] == b"\n"]
    for cut in range(len(whole) + 1):
        (tmp_path / "cut.jsonl").write_bytes(whole[:cut])
        expected = sum(end <= cut for end in ends)  # a line that only lacks its end is whole as well
        assert len(read_verdicts(tmp_path / "cut.jsonl")) == expected
        with Journal(tmp_path / "cut.jsonl") as journal:
            journal.decide("new", "revert")
        assert read_verdicts(tmp_path / "cut.jsonl")["key"].tolist()[-1] == "new"
        assert len(read_verdicts(tmp_path / "cut.jsonl")) == expected + 1


@pytest.mark.parametrize("line", [b"{}", b"[]", b"no", b'{"key": 1, "verdict": "accept"}', b'{"key": "a", "verdict": "maybe"}', b"\xff"])
def test_a_file_that_is_no_journal_is_refused_and_left_alone(tmp_path, line):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"key": "a", "verdict": "accept"}\n' + line + b"\n")
    for attempt in (Journal, read_verdicts):
        with pytest.raises(ValueError, match="expected a decision in line 2"):
            attempt(path)
    assert path.read_bytes().endswith(line + b"\n")


@pytest.mark.parametrize("coding", ["utf-16-be", "utf-16-le", "utf-32-be"])
def test_a_journal_in_another_coding_is_refused_and_nothing_is_written_behind_it(tmp_path, coding):
    path = tmp_path / "journal.jsonl"
    before = '{"key": "a", "verdict": "accept"}\r{"key": "b", "verdict": "revert"}\r'.encode(coding)
    path.write_bytes(before)
    for attempt in (Journal, read_verdicts):
        with pytest.raises(ValueError, match="expected a decision in line 1"):
            attempt(path)
    assert path.read_bytes() == before


def test_a_journal_that_an_editor_marked_as_utf_8_is_read(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"key": "a", "verdict": "accept"}\n')
    with Journal(path) as journal:
        assert journal.verdicts == {"a": "accept"}


def test_one_review_at_a_time(tmp_path):
    with Journal(tmp_path / "journal.jsonl"), pytest.raises(ValueError, match="end that first"):
        Journal(tmp_path / "journal.jsonl")
    Journal(tmp_path / "journal.jsonl").close()


def test_kills_at_random_moments_lose_no_confirmed_decision(tmp_path):
    path = tmp_path / "journal.jsonl"
    program = f"""
import sys
from qcfer.frontalize.review import Journal
with Journal({str(path)!r}) as journal:
    for number in range(int(sys.argv[1]), 100_000):
        journal.decide(str(number), "accept")
        print(number, flush=True)
"""
    confirmed = -1
    for seed in range(3):
        process = subprocess.Popen([sys.executable, "-c", program, str(confirmed + 1)], stdout=subprocess.PIPE, text=True)
        process.stdout.readline()
        time.sleep(random.Random(seed).uniform(0.01, 0.1))
        process.kill()
        told = process.stdout.read().split("\n")[:-1]
        process.stdout.close()
        process.wait()
        confirmed = int(told[-1]) if told else confirmed + 1
        kept = {int(key) for key in read_verdicts(path)["key"]}
        assert kept >= set(range(confirmed + 1)) and len(kept) <= confirmed + 2  # the last may be written and not yet told
        confirmed = max(kept)


# ---- tables


def test_verdicts_replace_the_gate_and_may_be_taken_back(tmp_path):
    judged = table()
    with Journal(tmp_path / "journal.jsonl") as journal:
        journal.decide(judged["key"][0], "accept")
        journal.decide("another picture", "revert")
        once = apply_verdicts(judged, read_verdicts(tmp_path / "journal.jsonl"))
        journal.undo()
        journal.undo()
        twice = apply_verdicts(once, read_verdicts(tmp_path / "journal.jsonl"))
    assert once["verdict"][0] == "accept" and once["gate"][0] == "revert" and once["reviewed"].tolist() == [True] + [False] * 23
    assert once["verdict"].tolist()[1:] == judged["verdict"].tolist()[1:]
    assert twice["verdict"].tolist() == judged["verdict"].tolist() and not twice["reviewed"].any()
    nobody = apply_verdicts(judged, read_verdicts(tmp_path / "absent.jsonl"))
    assert nobody["verdict"].tolist() == judged["verdict"].tolist()


def test_the_same_picture_is_shown_once_and_decided_for_both():
    judged = pd.concat([table(3), table(2)], ignore_index=True)
    assert list(_faces(judged)) == judged["key"].tolist()[:3]
    decided = apply_verdicts(judged, pd.DataFrame({"key": [judged["key"][0]], "verdict": ["accept"], "at": [""]}))
    assert decided["verdict"][[0, 3]].tolist() == ["accept", "accept"]


def test_tables_that_do_not_fit_are_refused(tmp_path):
    judged, pictures = table(3), [Image.new("RGB", (8, 8))] * 3
    with Journal(tmp_path / "journal.jsonl") as journal:
        with pytest.raises(ValueError, match="found 3, 3 and 2"):
            make_app(judged, pictures, pictures[:2], journal, "token")
        with pytest.raises(ValueError, match="found no key, verdict"):
            make_app(judged.drop(columns=["key", "verdict"]), pictures, pictures, journal, "token")
    with pytest.raises(ValueError, match="found no verdict"):
        serve(judged.drop(columns="verdict"), pictures, pictures, tmp_path / "other.jsonl")
