"""Pages of one file: text escaped, pictures inside, nothing asked of the network.

The templates, the style and the programs are in assets/pages.
"""

import base64
import hashlib
import html
import json
from io import BytesIO
from pathlib import Path
from string import Template

from PIL import Image

PLACE = Path(__file__).parent / "assets" / "pages"
SCREEN = 1600  # px; no more of a picture is embedded unless all of it is asked for
LOSSLESS = 300  # px; up to this, pictures are embedded as PNG


class Html(str):
    """Text that is HTML already."""


def escaped(value):
    """Anything as `Html`: what is not `Html` yet is shown letter by letter."""
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def joined(pieces):
    """Several pieces as one `Html`."""
    return Html("\n".join(map(escaped, pieces)))


def read(name):
    """A file of assets/pages."""
    return (PLACE / name).read_text(encoding="utf-8")


def filled(template, **values):
    """A template file with each $name replaced, as `Html`. Law: no value adds an element or an
    attribute unless it is `Html`."""
    return Html(Template(read(template)).substitute({k: escaped(v) for k, v in values.items()}))


def said(sentence):
    """A sentence of any language and direction, as `Html`; an empty one as a word."""
    return Html(f'<q dir="auto">{escaped(sentence)}</q>') if sentence else Html("<i>nothing</i>")


def number(text):
    """A number as it is to be read, for a cell of a `table`."""
    return Html(f'<span class="number">{escaped(text)}</span>')


def table(heads, rows):
    """A table, as `Html`.

    Args: heads: list of texts; rows: lists of as many texts or `Html`, of `number` to the right.
    """

    def cell(value):
        return Html(f"<td>{escaped(value)}</td>")

    def row(cells):
        return Html(f"<tr>{joined(cells)}</tr>")

    head = row(Html(f'<th scope="col">{escaped(text)}</th>') for text in heads)
    body = joined(row(map(cell, cells)) for cells in rows)
    return Html(
        f'<div class="wide"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'
    )


def embedded(picture, most=SCREEN, lossless=None):
    """A PIL image as an address that holds all of it.

    Args:
        most: px, what is longer is made smaller; None leaves it as it is.
        lossless: as PNG, not as JPEG; None chooses PNG for small pictures.
    """
    shown = picture.convert("RGB")
    if most is not None and max(shown.size) > most:
        scale = most / max(shown.size)
        size = [max(1, round(side * scale)) for side in shown.size]
        shown = shown.resize(size, Image.Resampling.LANCZOS)
    if lossless is None:
        lossless = max(shown.size) <= LOSSLESS
    buffer, kind = BytesIO(), "png" if lossless else "jpeg"
    more = {"optimize": True} if kind == "png" else {"quality": 90}
    shown.save(buffer, kind, **more)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def numbers(array):
    """A numpy array's float32 as base64, little-endian, for `data`."""
    return base64.b64encode(array.astype("<f4").tobytes()).decode()


def page(title, body, data=None, script=""):
    """A whole page, as text.

    Args:
        title: text.
        body: `Html`.
        data: what the program finds as JSON in the element `data`.
        script: a file of assets/pages. Only this one program may run in the page, and nothing may
            be fetched (content security policy).
    """
    program = read(script) if script else ""
    digest = base64.b64encode(hashlib.sha256(program.encode()).digest()).decode()
    # In JSON a "<" stands within strings only, where this means the same.
    held = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    return filled(
        "page.html",
        title=title,
        style=Html(read("page.css")),
        body=escaped(body),
        data=Html(held),
        digest=digest,
        script=Html(program),
    )
