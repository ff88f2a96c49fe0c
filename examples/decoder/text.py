"""The text that the decoder learns: prose from SQLite's documentation, in the public domain.

`sqlite.txt.xz` holds the pages as `extract.py` made them. A page is its sections; a section is a
heading (`# …`) and paragraphs, one a line. Pages are parted by an empty line and a form feed,
sections by an empty line.

    python -m examples.decoder.text > held-out.txt      # what the decoder has not seen
"""

from __future__ import annotations

import lzma
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

# Sections, each a heading and its paragraphs.
Page = tuple[tuple[str, tuple[str, ...]], ...]

FILE: Final = Path(__file__).with_name("sqlite.txt.xz")
_PAGE_END: Final = "\n\f\n"
# Of 20 pages one is held out. Which one: with it no page makes up more than a fifth of the held-out
# text, and that is more than 80 KB.
_EVERY: Final = 20
_HELD_OUT: Final = 11
_WORD: Final = re.compile(r"[A-Za-z](?:[A-Za-z0-9_]|'(?=[A-Za-z]))*")


def write_pages(file: Path, pages: Iterable[Page]) -> None:
    text = _PAGE_END.join(
        "\n".join("\n".join((f"# {heading}", *paragraphs, "")) for heading, paragraphs in page)
        for page in pages
    )
    file.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))


def read_pages(file: Path = FILE) -> list[list[str]]:
    """Per page its sections, each a heading and paragraphs, one a line."""
    text = lzma.decompress(file.read_bytes()).decode()
    return [
        [section.strip("\n") for section in page.split("\n\n") if section.strip("\n")]
        for page in text.split(_PAGE_END)
    ]


def split(pages: Sequence[list[str]]) -> tuple[list[str], list[str]]:
    """The sections to train on, and those held out: every 20th page as a whole."""
    training: list[str] = []
    held_out: list[str] = []
    for number, sections in enumerate(pages):
        (held_out if number % _EVERY == _HELD_OUT else training).extend(sections)
    return training, held_out


def words(text: str, after: int = 0, *, cut_off: bool = False) -> list[str]:
    """Words and names such as `sqlite3_step`, in lower case.

    after: only those that end behind so many characters. cut_off: the text may end in the middle of
    a word, so one at its very end does not count.
    """
    return [
        found.group().lower()
        for found in _WORD.finditer(text)
        if found.end() > after and not (cut_off and found.end() == len(text))
    ]


def vocabulary(sections: Iterable[str]) -> frozenset[str]:
    """Every word of the sections."""
    return frozenset(word for section in sections for word in words(section))


def main() -> None:
    _, held_out = split(read_pages())
    print("\n\n".join(held_out))


if __name__ == "__main__":
    main()
