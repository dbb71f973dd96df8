"""A page in a browser, and what must be true of every page."""
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup

WIDTHS = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}


def soup_of(path):
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


class Reader:
    "A page in a browser, and everything that went wrong on it."

    def __init__(self, browser, size):
        self.complaints = []
        self.page = browser.new_page(viewport=WIDTHS[size])
        self.page.on("console", lambda message: message.type in ("error", "warning") and self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append(f"dialog {dialog.message}"), dialog.dismiss()))
        self.page.on("requestfailed", lambda request: self.complaints.append(f"failed {request.url[:100]}"))
        self.page.on(
            "request", lambda request: self.local(request.url) or self.complaints.append(f"asked for {request.url[:100]}")
        )

    @staticmethod
    def local(url):
        return url.startswith(("file:", "data:"))

    def open(self, path):
        self.page.goto(path.as_uri())
        return self.page

    def tab_to(self, text, limit=60):
        "Press Tab until the element with this text has the focus."
        for _ in range(limit):
            self.page.keyboard.press("Tab")
            if self.page.evaluate("document.activeElement.textContent.trim()") == text:
                return
        raise AssertionError(f"{text!r} is not among the first {limit} stops of the Tab key")


def check_whole(page, path):
    "Nothing hangs over, every picture is there and described, and there is one main part and one title."
    report = page.evaluate("""() => ({
        wide: document.scrollingElement.scrollWidth - document.documentElement.clientWidth,
        broken: [...document.images].filter(image => !image.complete || image.naturalWidth === 0).length,
        silent: [...document.images].filter(image => !image.alt.trim() || image.alt.startsWith('No description')).length,
        large: [...document.images].filter(image => image.getBoundingClientRect().right > innerWidth).length,
        mains: document.querySelectorAll('main').length,
        titles: document.querySelectorAll('h1').length,
    })""")
    assert report == {"wide": 0, "broken": 0, "silent": 0, "large": 0, "mains": 1, "titles": 1}, path


def check_links(folder, elsewhere=()):
    "Every link of the pages below a folder leads to a file, and to a place in it; those in `elsewhere` lead out of the folder."
    pages = {path: soup_of(path) for path in folder.rglob("*.html")}
    anchors = {path: {tag["id"] for tag in page(id=True)} for path, page in pages.items()}
    for path, page in pages.items():
        for link in page(href=True):
            parts = urlsplit(link["href"])
            if parts.scheme or link["href"] in elsewhere:
                assert parts.scheme in ("https", "data", ""), (path, link["href"])
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_file(), (path, link["href"])
            if parts.fragment and target in anchors:
                assert unquote(parts.fragment) in anchors[target], (path, link["href"])


def check_accessible(browser, paths):
    "axe-core finds nothing serious on pages, by day and by night."
    from axe_playwright_python.sync_playwright import Axe

    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme, bypass_csp=True)
        page = context.new_page()
        for path in paths:
            page.goto(path.as_uri())
            found = Axe().run(page).response["violations"]
            serious = [(each["id"], each["nodes"][0]["html"][:200]) for each in found if each["impact"] in ("serious", "critical")]
            assert not serious, (scheme, path.name, serious)
        context.close()
