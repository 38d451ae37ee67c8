"""A page, taken apart as a browser would."""

from html.parser import HTMLParser

_ENDLESS = frozenset({"meta", "link", "input", "br", "wbr", "img", "hr", "col"})


class Page(HTMLParser):
    """A page's elements in their order, its tables as text, and its forms as they would be sent."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.forms: list[dict[str, str]] = []
        """Names and values of each form's inputs, with ``action``; of its buttons, none."""
        self.facts: dict[str, str] = {}
        """The terms of description lists, and what they are; the first of each."""
        self.headings: list[tuple[int, str]] = []
        """Level and text."""
        self.labelled: set[str | None] = set()
        self._open: list[str] = []
        self._term = ""
        self.feed(html)
        self.close()
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.elements.append((tag, named))
        if tag not in _ENDLESS:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")
        elif tag == "form":
            self.forms.append({"action": named.get("action") or ""})
        elif tag == "input":
            self.forms[-1][named.get("name") or ""] = named.get("value") or ""
        elif tag == "label":
            self.labelled.add(named.get("for"))
        elif tag in ("h1", "h2", "h3", "h4"):
            self.headings.append((int(tag[1]), ""))
        elif tag == "dt":
            self._term = ""
        elif tag == "dd":
            while self._term in self.facts:
                self._term += " again"
            self.facts[self._term] = ""

    def handle_endtag(self, tag: str) -> None:
        if tag in _ENDLESS:
            # As in XHTML, with a slash.
            return
        assert self._open, tag
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f" {data} "
        for tag in self._open:
            if tag in ("th", "td"):
                self.rows[-1][-1] = _joined(self.rows[-1][-1], data)
            elif tag == "dt":
                self._term = _joined(self._term, data)
            elif tag == "dd":
                self.facts[self._term] = _joined(self.facts[self._term], data)
            elif tag in ("h1", "h2", "h3", "h4"):
                level, text = self.headings[-1]
                self.headings[-1] = level, _joined(text, data)

    def count(self, tag: str) -> int:
        return sum(each == tag for each, _ in self.elements)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of each element of this name."""
        return [attributes for each, attributes in self.elements if each == tag]

    def column(self) -> dict[str, str]:
        """The second cell of each row by the first."""
        return {row[0]: row[1] for row in self.rows}


def _joined(before: str, data: str) -> str:
    return " ".join((*before.split(), *data.split()))
