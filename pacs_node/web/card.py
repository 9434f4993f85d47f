"""A model package's card as HTML: its words and its figures, and nothing that a card could smuggle in."""

from __future__ import annotations

from collections.abc import Sequence

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup

FIGURES = ("roc.png", "reliability.png")


class _Renderer(RendererHTML):
    """Headings one level lower, tables that scroll, images of FIGURES only, links to other sites only."""

    def render(self, tokens: Sequence[Token], options: object, env: object) -> str:
        for number, token in enumerate(tokens):
            if token.type in ("heading_open", "heading_close"):
                token.tag = f"h{min(6, int(token.tag[1]) + 1)}"
            if token.type == "th_open" and not tokens[number + 1].content:
                token.tag = tokens[number + 2].tag = "td"
        return super().render(tokens, options, env)  # type: ignore[arg-type]

    def table_open(self, tokens: Sequence[Token], index: int, options: object, env: object) -> str:
        return '<div class="scroll" tabindex="0" role="group" aria-label="Table"><table>\n'

    def table_close(self, tokens: Sequence[Token], index: int, options: object, env: object) -> str:
        return "</table></div>\n"

    def image(self, tokens: Sequence[Token], index: int, options: object, env: object) -> str:
        token = tokens[index]
        name, told = token.attrs.get("src"), Markup.escape(token.content)
        return f'<img class="figure" src="/model/{name}" alt="{told}">' if name in FIGURES else str(told)


def html(text: str) -> Markup:
    """The card; raw HTML in it is shown as text."""
    markdown = MarkdownIt("commonmark", {"html": False}, renderer_cls=_Renderer).enable("table")
    tokens = markdown.parse(text)
    for token in tokens:
        token.children = _without_local_links(token.children or [])
    return Markup(markdown.renderer.render(tokens, markdown.options, {}))


def _without_local_links(tokens: list[Token]) -> list[Token]:
    """Without links to files of the package, which are not served."""
    kept, dropped = [], 0
    for token in tokens:
        if token.type == "link_open" and not str(token.attrs.get("href", "")).startswith("https://"):
            dropped += 1
        elif token.type == "link_close" and dropped:
            dropped -= 1
        else:
            kept.append(token)
    return kept
