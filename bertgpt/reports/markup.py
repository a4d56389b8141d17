"""HTML that cannot be broken by what stands in it: text is escaped unless it was made here."""

import html
import re
from collections.abc import Iterable, Sequence


class Html(str):
    """Markup, safe to put into a page as it is."""

    __slots__ = ()


def el(tag: str, *children: str, **attributes: str | float | None) -> Html:
    """An element. `class_` and `for_` lose their bar, and in names of attributes `_` is `-`; None leaves one out."""
    told = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    return Html(f"<{tag}{told}>{joined(children)}</{tag}>")


def void(tag: str, **attributes: str | float | None) -> Html:
    """An element that holds nothing; closed in itself, as those of SVG must be."""
    return Html(el(tag, **attributes).removesuffix(f"></{tag}>") + "/>")


def joined(children: Iterable[str]) -> Html:
    """Pieces one behind the other."""
    return Html("".join(child if isinstance(child, Html) else escaped(child) for child in children))


def escaped(text: str) -> str:
    """Text as a page shows it; what would turn the direction of writing, or is no character at all, is spelled out."""
    spelled = re.sub(
        r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]",
        lambda match: match.group().encode("unicode_escape").decode(),
        text,
    )
    return html.escape(spelled)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> Html:
    """A table, which scrolls in itself where it is wider than the page; the first columns are words, others figures."""
    kinds = ["words" if i < words else "figure" for i in range(len(columns))]
    head = el("tr", *(el("th", name, class_=kind, scope="col") for name, kind in zip(columns, kinds, strict=True)))
    body = [el("tr", *(el("td", c, class_=kind) for c, kind in zip(row, kinds, strict=True))) for row in rows]
    return el("div", el("table", el("thead", head), el("tbody", *body)), class_="wide", tabindex="0")


def details(summary: str, *children: str) -> Html:
    """Something that is opened by whoever wants it; no script is needed."""
    return el("details", el("summary", summary), *children)
