"""What stands in a figure."""
from itertools import combinations

from matplotlib.text import Text

from qcfer.pages.figures.style import WIDTH

def drawn_texts(figure, monkeypatch):
    """The text objects that are really drawn (not the spare ticks beyond the axes)."""
    seen, draw = [], Text.draw
    monkeypatch.setattr(Text, "draw", lambda self, renderer: (seen.append(self), draw(self, renderer))[1])
    figure.draw_without_rendering()
    monkeypatch.undo()
    return [text for text in dict.fromkeys(seen) if text.get_visible() and text.get_text().strip()]


def check_texts(figure, monkeypatch):
    """Every text is large enough to print, inside the figure, and over no other."""
    texts = drawn_texts(figure, monkeypatch)
    assert texts and figure.get_figwidth() == WIDTH <= 6.5
    assert min(text.get_fontsize() for text in texts) >= 9
    boxes = {text: text.get_window_extent() for text in texts}
    for text, box in boxes.items():
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.width + 1 and box.y1 <= figure.bbox.height + 1
        assert inside, f"{text.get_text()!r} leaves the figure"
    level = [text for text in texts if text.get_rotation() % 90 == 0]
    for one, other in combinations(level, 2):
        assert not boxes[one].padded(-1).overlaps(boxes[other].padded(-1)), f"{one.get_text()!r} over {other.get_text()!r}"


def words(figure):
    figure.draw_without_rendering()
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]
