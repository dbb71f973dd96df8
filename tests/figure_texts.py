"""What stands in a figure."""
from matplotlib.text import Text


def drawn_texts(figure, monkeypatch):
    """The text objects that are really drawn (not the spare ticks beyond the axes)."""
    seen, draw = [], Text.draw
    monkeypatch.setattr(Text, "draw", lambda self, renderer: (seen.append(self), draw(self, renderer))[1])
    figure.draw_without_rendering()
    monkeypatch.undo()
    return [text for text in dict.fromkeys(seen) if text.get_visible() and text.get_text().strip()]


def words(figure):
    figure.draw_without_rendering()
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]
