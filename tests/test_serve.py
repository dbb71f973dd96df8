"""The page and the interface of a model, on a real server: who may ask, what is answered, what a person sees."""
import http.client
import io
import json
import resource
import shutil
import socket
import struct
import threading
import time
import zipfile
import zlib
from base64 import urlsafe_b64decode
from concurrent.futures import ThreadPoolExecutor

import httpx2 as httpx
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from qcfer.core.labels import CLASSES
from qcfer.data.cartoons import draw_face, draw_faces
from qcfer.recognize import serve as served
from qcfer.recognize.model_folder import export_model, study_of
from qcfer.recognize.recognizer import Face, Recognizer
from qcfer.run.config import Config
from qcfer.run.pipeline import make_run

KEY = {"Authorization": "Bearer secret"}


class Halves(Recognizer):
    "Finds a face in each 96 pixels of a picture's width: the detector has its own tests, and drawn faces are none to it."

    def find(self, images):
        corners = [[(96 * place, 0, 96 * place + 96, 96) for place in range(image.width // 96)] for image in images]
        return [
            [Face(image.crop(box), tuple(map(float, box)), 0.9, 1.0, number) for number, box in enumerate(boxes)]
            for image, boxes in zip(images, corners)
        ]


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    root = draw_faces(tmp_path_factory.mktemp("faces"), per_class=20)
    run = make_run(Config("folder", str(root), pose="none", esv={"candidates": "LR"}, ladders=[]), out)
    model = Halves.load(export_model(run, study_of(run, out, root), out / "model"))
    model.card["framing"] = {"side": 1.2}
    return model


@pytest.fixture(scope="module")
def address(recognizer):
    "A server on a free port."
    import uvicorn

    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(served.make_app(recognizer, "secret"), log_level="warning", access_log=False, lifespan="off"))
    thread = threading.Thread(target=lambda: server.run(sockets=[listening]), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(autouse=True)
def fresh_rate(monkeypatch):
    monkeypatch.setattr(served, "_PER_SECOND", 100_000)


def png(*pictures):
    row = Image.new("RGB", (96 * len(pictures), 96))
    for place, picture in enumerate(pictures):
        row.paste(picture.resize((96, 96)), (96 * place, 0))
    stream = io.BytesIO()
    row.save(stream, "PNG")
    return stream.getvalue()


# The interface


def test_a_picture_is_answered_as_predict_answers_it(address, recognizer):
    data = png(draw_face("happiness", seed=1), draw_face("sadness", seed=2))
    told = httpx.post(f"{address}/predict?views=true", content=data, headers=KEY).json()
    table = recognizer.predict([Image.open(io.BytesIO(data)).convert("RGB")])
    assert (told["width"], told["height"], len(told["faces"])) == (192, 96, 2)
    for face, (_, row) in zip(told["faces"], table.iterrows()):
        assert [face["probabilities"][name] for name in CLASSES] == pytest.approx(row[list(CLASSES)].tolist(), abs=1e-6)
        assert (face["label"], face["seen"], face["yaw"], face["frontal"]) == (row["label"], "raw", None, None)
        assert face["crop"].startswith("data:image/jpeg;base64,")


def test_two_hundred_at_once_are_all_answered_each_its_own(address, recognizer):
    faces = [draw_face(CLASSES[place % 7], seed=1000 + place).resize((96, 96)) for place in range(200)]
    bodies = [png(*[face] * (1 + place % 3)) for place, face in enumerate(faces)]
    with ThreadPoolExecutor(200) as pool, httpx.Client(headers=KEY, timeout=120, limits=httpx.Limits(max_connections=200)) as client:
        answers = list(pool.map(lambda body: client.post(f"{address}/predict", content=body), bodies))
    assert {answer.status_code for answer in answers} == {200}
    own = recognizer.predict_proba(faces)
    for place, answer in enumerate(answers):
        found = answer.json()["faces"]
        assert len(found) == 1 + place % 3
        told = np.array([found[0]["probabilities"][name] for name in CLASSES])
        assert np.abs(own - told).max(1).argmin() == place and np.abs(own[place] - told).max() < 1e-4


def test_the_card_and_an_explanation(address, recognizer):
    card = httpx.get(f"{address}/model", headers=KEY).json()
    assert card["name"] == recognizer.card["name"] and card["classes"] == list(CLASSES)
    data = png(draw_face("anger", seed=4), draw_face("surprise", seed=5))
    told = httpx.post(f"{address}/explain?face=1", content=data, headers=KEY).json()
    assert np.array(told["maps"]["raw"]).shape == (8, 8) and told["label"] in CLASSES
    for face, status in ((2, 404), (-1, 422), ("x", 422)):
        assert httpx.post(f"{address}/explain?face={face}", content=data, headers=KEY).status_code == status


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x89PNG\r\n\x1a\n", png(draw_face("fear", seed=1))[:200]])
def test_bytes_that_are_no_picture(address, data):
    answer = httpx.post(f"{address}/predict", content=data, headers=KEY)
    assert answer.status_code == 400 and answer.json()["detail"].startswith("expected a picture; found: ")


# At the door


@pytest.mark.parametrize("path", ["/model", "/predict", "/explain", "/nothing"])
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer x"}, {"Authorization": "Bearer secrets"}, {"Authorization": "secret"}])
def test_without_the_token_nothing_is_said(address, path, headers):
    answer = httpx.post(f"{address}{path}", content=b"x", headers=headers)
    assert answer.status_code == 401 and "Bearer TOKEN" in answer.json()["detail"]


@pytest.mark.parametrize(
    "headers",
    [{"host": "evil.example"}, {"host": "127.0.0.1.evil.example:80"}, {"host": "evil.example:127.0.0.1"}, {"host": ""},
     {"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:1"}],
)  # fmt: skip
def test_other_hosts_and_origins(address, headers):
    answer = httpx.get(f"{address}/health", headers=KEY | headers)
    assert answer.status_code in (400, 403)
    assert "access-control-allow-origin" not in answer.headers


def test_every_answer_has_the_headers_of_a_closed_house(address):
    for path in ("/", "/recognize.js", "/recognize.css", "/health", "/model", "/nothing"):
        headers = httpx.get(f"{address}{path}").headers
        assert {name: headers.get(name) for name in served.HEADERS} == served.HEADERS, path
        assert "server" not in headers or "uvicorn" in headers["server"]


def test_a_hundred_megabytes_are_refused_before_they_are_read(address):
    sent = 0

    def stream():
        nonlocal sent
        for _ in range(100):
            sent += 1
            yield bytes(1_000_000)

    try:
        answer = httpx.post(f"{address}/predict", content=stream(), headers=KEY, timeout=30)
        assert answer.status_code == 413
    except httpx.TransportError:  # the server hangs up while we still send
        pass
    assert sent < 60
    told = socket.create_connection(address.removeprefix("http://").split(":"))
    told.sendall(b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:1\r\nAuthorization: Bearer secret\r\nContent-Length: 100000000\r\n\r\n")
    assert b"413" in told.recv(100)
    told.close()


def test_slow_clients_hold_nobody_up(address, monkeypatch):
    monkeypatch.setattr(served, "_SLOW_S", 1)
    host, port = address.removeprefix("http://").split(":")
    slow = [socket.create_connection((host, int(port))) for _ in range(20)]
    for one in slow:
        one.sendall(b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:1\r\nAuthorization: Bearer secret\r\nContent-Length: 1000\r\n\r\nabc")
    start = time.perf_counter()
    assert httpx.post(f"{address}/predict", content=png(draw_face("fear", seed=1)), headers=KEY, timeout=30).status_code == 200
    assert time.perf_counter() - start < 10
    slow[0].settimeout(10)
    assert b"408" in slow[0].recv(100)
    for one in slow:
        one.close()


def test_clients_that_stop_reading_hold_nobody_up(address):
    host, port = address.removeprefix("http://").split(":")
    data = png(draw_face("fear", seed=1), draw_face("anger", seed=2))
    head = f"POST /predict?views=true HTTP/1.1\r\nHost: 127.0.0.1:1\r\nAuthorization: Bearer secret\r\nContent-Length: {len(data)}\r\n\r\n"
    deaf = []
    for _ in range(8):
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)  # before the connection, or it has no effect
        one.connect((host, int(port)))
        one.setblocking(False)
        try:
            for _ in range(40):  # one after the other, without looking at an answer
                one.sendall(head.encode() + data)
        except BlockingIOError:
            pass  # the server reads no more of who does not listen
        deaf.append(one)
    for _ in range(3):
        start = time.perf_counter()
        assert httpx.post(f"{address}/predict", content=data, headers=KEY, timeout=60).status_code in (200, 503)
        assert time.perf_counter() - start < 30
    for one in deaf:
        one.close()
    deadline = time.perf_counter() + 30
    while (found := httpx.post(f"{address}/predict", content=data, headers=KEY, timeout=60)).status_code == 503:
        assert time.perf_counter() < deadline, "the line never emptied"
        time.sleep(0.2)
    assert found.status_code == 200


def test_too_many_requests_and_too_long_a_line(address, monkeypatch):
    monkeypatch.setattr(served, "_MAX_WAITING", 0)
    answer = httpx.post(f"{address}/predict", content=png(draw_face("fear", seed=1)), headers=KEY)
    assert answer.status_code == 503 and answer.headers["retry-after"]
    monkeypatch.undo()
    monkeypatch.setattr(served, "_PER_SECOND", 0)
    monkeypatch.setattr(served, "_BURST", 5)
    statuses = [httpx.get(f"{address}/health").status_code for _ in range(10)]
    assert statuses == [200] * 5 + [429] * 5
    monkeypatch.setattr(served, "_PER_SECOND", 100_000)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/../../etc/passwd", "/..%2f..%2fetc/passwd", "//etc/passwd", "/recognize.js/../x", "/%00", "/%E9"])
def test_no_path_leads_out(address, method, path):
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=20)
    connection.request(method, path, headers=KEY)  # the path as it is
    answer = connection.getresponse()
    assert answer.status in (307, 404, 405) and b"root:" not in answer.read()
    connection.close()


def _chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png_of(width, height):
    "A PNG of one grey, whose rows take next to nothing."
    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(bytes(1 + width // 8) * 1000) for _ in range(height // 1000)) + rows.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _zip_of(size):
    with zipfile.ZipFile(stream := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("face.png", bytes(size))
    return stream.getvalue()


@pytest.mark.parametrize(
    "data",
    [_png_of(40_000, 40_000), b"GIF89a\xff\xff\xff\xff\x00\x00\x00,\x00\x00\x00\x00\xff\xff\xff\xff\x00\x02\x00;", _zip_of(10**8)],
    ids=["png", "gif", "zip"],
)
def test_what_unpacks_to_gigabytes_is_refused_at_once(address, data):
    assert len(data) < 1_000_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer = httpx.post(f"{address}/predict", content=data, headers=KEY, timeout=30)
    assert answer.status_code == 400 and answer.json()["detail"].startswith("expected a picture; found: ")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_a_token_is_drawn_anew_and_too_long_to_be_guessed(recognizer):
    "At 40 tries a second, which the door lets through, 192 bits take longer than there is time."

    class Told(Exception):
        pass

    def announce(address):
        raise Told(address.partition("#")[2])

    tokens = set()
    for _ in range(2):
        with pytest.raises(Told) as told:
            served.serve(recognizer, announce=announce)
        tokens.add(str(told.value))
    assert len(tokens) == 2 and all(len(urlsafe_b64decode(token)) == 24 for token in tokens)


def test_nothing_is_written(address, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    picture = io.BytesIO()
    Image.effect_noise((1800, 1800), 80).convert("RGB").save(picture, "PNG")
    assert len(picture.getvalue()) > 2_000_000
    assert httpx.post(f"{address}/predict?aligned=true", content=picture.getvalue(), headers=KEY, timeout=60).status_code == 200
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_the_interface_keeps_to_its_description(address):
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings

    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    beyond = ("ignored_auth", "positive_data_acceptance")  # the token is tried above; most bytes are no picture, which no schema can say
    excluded, tried = [schemathesis.checks.CHECKS.get_one(name) for name in beyond], []
    for result in schema.get_all_operations():
        operation = result.ok()
        tried.append(f"{operation.method.upper()} {operation.path}")

        @settings(max_examples=40, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def check(case):
            case.call_and_validate(base_url=address, headers=KEY, excluded_checks=excluded)

        check()
    assert sorted(tried) == ["GET /health", "GET /model", "POST /explain", "POST /predict"]


# The page


@pytest.fixture
def page(browser, address):
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.wrong = []
    page.on("console", lambda message: page.wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("request", lambda request: page.wrong.append(request.url) if not request.url.startswith((address, "data:", "blob:")) else None)
    page.goto(f"{address}/#secret")
    yield page
    context.close()


def upload(page, name, *pictures):
    page.set_input_files("#files", [{"name": name, "mimeType": "image/png", "buffer": png(*pictures)}])


def test_a_person_sees_every_face(page, recognizer):
    upload(page, "<b>party</b>.png", draw_face("happiness", seed=1), draw_face("sadness", seed=2))
    page.wait_for_selector("article")
    assert page.locator("h2").inner_text() == "<b>party</b>.png: 2 faces"
    told = [title.split(", ")[0].removeprefix("Face 1: ").removeprefix("Face 2: ") for title in page.locator(".face h3").all_inner_texts()]
    data = png(draw_face("happiness", seed=1), draw_face("sadness", seed=2))
    assert told == recognizer.predict([Image.open(io.BytesIO(data)).convert("RGB")])["label"].tolist()
    assert page.locator("svg rect").count() == 4 and page.locator(".bars").first.locator("meter").count() == 7
    page.locator(".face button").first.click()
    page.wait_for_selector("canvas[role=img]")
    assert "test faces recognised" in page.locator("#model").inner_text()
    assert page.wrong == []


EVIL = "<img src=x onerror=\"document.title='evil'\">"


@pytest.mark.parametrize("name", [f"{EVIL}.png", "\"><script>document.title='evil'</script>", "javascript:x", "\u202egnp.ecaf", "é\n\t'"])
def test_names_and_what_stands_in_a_picture_are_text(page, name):
    picture, told, notes = draw_face("happiness", seed=1).resize((96, 96)), io.BytesIO(), PngInfo()
    exif = picture.getexif()
    exif[0x010E] = exif[0x013B] = EVIL
    for key in ("Title", "Comment", EVIL[:40]):
        notes.add_text(key, EVIL)
    picture.save(told, "PNG", exif=exif, pnginfo=notes)
    page.set_input_files("#files", [{"name": name, "mimeType": "image/png", "buffer": told.getvalue()}])
    page.wait_for_selector("article")
    assert page.locator("h2").evaluate("e => [e.textContent.endsWith(': 1 face'), e.children.length]") == [True, 0]
    assert "onerror" not in page.locator("article").evaluate("e => [...e.querySelectorAll('*')].flatMap(e => e.getAttributeNames()).join()")
    assert page.title() != "evil" and page.locator("script").count() == 1 and page.wrong == []


def test_the_policy_holds_where_a_script_had_got_in(page):
    "Were there a hole after all: nothing written into the page runs, and nothing goes elsewhere."
    refused = page.evaluate(
        """async evil => {
            const refused = [];
            document.addEventListener("securitypolicyviolation", event => refused.push(event.effectiveDirective));
            const script = document.createElement("script");
            script.textContent = "document.title = 'evil'";
            document.body.append(script);
            document.body.insertAdjacentHTML("beforeend", evil + "<form action='http://127.0.0.1:9/'><button></button></form>");
            document.querySelector("form button").click();
            await fetch("http://127.0.0.1:9/").catch(() => 0);
            await new Promise(done => setTimeout(done, 300));
            return refused;
        }""",
        EVIL,
    )
    assert {"script-src-elem", "script-src-attr", "form-action", "connect-src"} <= set(refused)
    assert page.title() != "evil"


def test_dropped_and_damaged_pictures(page):
    data = list(png(draw_face("fear", seed=3)))
    page.evaluate(
        """bytes => {
            const files = new DataTransfer();
            files.items.add(new File([new Uint8Array(bytes)], "dropped.png", {type: "image/png"}));
            document.dispatchEvent(new DragEvent("drop", {dataTransfer: files, bubbles: true, cancelable: true}));
        }""",
        data,
    )
    page.wait_for_selector("article")
    page.set_input_files("#files", [{"name": "torn.png", "mimeType": "image/png", "buffer": b"\x89PNG"}])
    page.wait_for_selector("#said.wrong")
    assert "torn.png: expected a picture; found: " in page.locator("#said").inner_text()


def test_the_keyboard_alone_will_do(page):
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    assert reached[:3] == ["files", "camera", "aligned"]
    named = "e.labels?.length || e.textContent.trim() || e.alt || e.ariaLabel"
    unnamed = page.evaluate(f"[...document.querySelectorAll('input, button, img, video')].filter(e => !({named})).length")
    assert unnamed == 0 and page.locator("[role=status][aria-live=polite]").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_has_no_sideways_scroll(browser, address, scheme):
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    page = context.new_page()
    page.goto(f"{address}/#secret")
    upload(page, "a_very_long_name_without_any_space_in_it_" * 3 + ".png", *[draw_face("happiness", seed=1)] * 8)
    page.wait_for_selector("article .face:nth-child(8)")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()


def test_without_its_key_the_page_says_what_to_do(browser, address):
    page = browser.new_page()
    page.goto(address)
    page.wait_for_selector("#said.wrong")
    assert "the part after # is the key" in page.locator("#said").inner_text()
    page.close()


def test_the_camera_is_looked_through_and_let_go(browser, address):
    fake = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--disable-gpu"]
    own = browser.browser_type.launch(executable_path=shutil.which("chromium"), args=fake)
    page = own.new_context(permissions=["camera"]).new_page()
    page.goto(f"{address}/#secret")
    page.click("#camera")
    page.wait_for_selector("article h2", timeout=30_000)
    assert page.locator("h2").inner_text().startswith("camera: ")
    page.click("#camera")
    assert page.locator("#live").is_hidden() and page.evaluate("stream === null")
    own.close()


def test_what_is_unknown_is_null_and_never_nan(recognizer):
    told = served.describe_picture(recognizer, png(draw_face("fear", seed=1)), aligned=True)
    assert json.loads(json.dumps(told, allow_nan=False)) == told and told["faces"][0]["yaw"] is None
