"""Makes the shipped text from Debian's package sqlite3-doc, whose pages are in the public domain.

    python -m examples.decoder.extract            the package as installed, or fetched by apt-get
    python -m examples.decoder.extract --package sqlite3-doc_3.40.1-2+deb12u2_all.deb

Kept is prose: paragraphs and list entries under their headings. Left out are code, tables,
diagrams, indexes, release notes, and pages about people. A paragraph of which more
than half was read before, on whatever page, is left out too: so nothing that is held out from
training stands in the training part almost word by word.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

from examples.decoder.text import FILE, Page, write_pages

PACKAGE: Final = "sqlite3-doc"
PAGES: Final = Path("usr/share/doc/sqlite3")

# Generated from other pages, lists of releases, about people, contracts and rivals, or about what
# later versions replaced.
_LEFT_OUT: Final = re.compile(
    r"""(releaselog|syntax)/ | doc_ | changes | chronology | requirements | capi3ref | fileformat\.
    | sitemap | syntaxdiagrams | docs\. | .*index | toc | (old)?news | pressrelease | codeof
    | consortium | hirely | crew | copyright-release | prosupport | famous | cves | whynotgit
    | c_interface | capi3\. | version3 | datatypes\. | vdbe | 3\dto3\d | speed\. | asyncvfs""",
    re.VERBOSE,
)
_SKIPPED: Final = {"script", "style", "pre", "svg", "table", "select", "button"}
_SKIPPED_CLASSES: Final = {"fancy_toc", "menu", "searchmenu", "imgcontainer", "nounderline"}
_HEADINGS: Final = {"title", "h1", "h2", "h3", "h4", "h5"}
_VOID: Final = {"br", "hr"}
_LISTS: Final = {"ol", "ul", "dl", "li", "dt", "dd"}
_BLOCKS: Final = _HEADINGS | _VOID | _LISTS | {"p", "div", "blockquote", "center"}

_NUMBERING: Final = re.compile(r"^(?:appendix [a-z]\.|[\d.]+(?=\s))\s*", re.IGNORECASE)
_LEAST_WORDS: Final = 8
_LEAST_LETTERS: Final = 0.7  # of a paragraph's characters without spaces
_SHINGLE: Final = 6  # words


@dataclass
class _Reader(HTMLParser):
    """A page's blocks of text, each with its tag, in order."""

    blocks: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._tag = ""
        self._text = ""
        self._skipped: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        classes = set((dict(attrs).get("class") or "").split())
        if self._skipped:
            if tag == self._skipped[0]:
                self._skipped.append(tag)
        elif tag in _SKIPPED or (tag == "div" and classes & _SKIPPED_CLASSES):
            self._end_block()
            self._skipped.append(tag)
        elif tag in _BLOCKS:
            self._end_block()
            self._tag = self._tag if tag in _VOID else tag

    def handle_endtag(self, tag: str) -> None:
        if self._skipped:
            if tag == self._skipped[0]:
                self._skipped.pop()
        elif tag in _BLOCKS:
            self._end_block()
            self._tag = ""

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            self._text += data

    def _end_block(self) -> None:
        text = " ".join(unicodedata.normalize("NFKC", self._text).split())
        if text:
            self.blocks.append((self._tag, text))
        self._text = ""


def read_page(html: str) -> Page:
    """The page's sections: a heading and its paragraphs."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    sections: list[tuple[str, list[str]]] = []
    for tag, text in reader.blocks:
        if tag in _HEADINGS:
            sections.append((_NUMBERING.sub("", text), []))
        elif sections and _is_prose(text):
            sections[-1][1].append(f"- {text}" if tag in {"li", "dd"} else text)
    return tuple((heading, tuple(paragraphs)) for heading, paragraphs in sections)


def _is_prose(text: str) -> bool:
    solid = text.replace(" ", "")
    return (
        len(text.split()) >= _LEAST_WORDS
        and sum(map(str.isalpha, solid)) >= _LEAST_LETTERS * len(solid)
        and text[-1] in '.:!?)"'
    )


@dataclass
class Repetitions:
    """What was read before, as runs of a few words."""

    _seen: set[tuple[str, ...]] = field(default_factory=set)

    def without(self, page: Page) -> Page:
        """The page without paragraphs mostly read before, and without headings left bare."""
        kept = []
        for heading, paragraphs in page:
            news = tuple(text for text in paragraphs if self._is_news(text))
            if news:
                kept.append((heading, news))
        return tuple(kept)

    def _is_news(self, text: str) -> bool:
        words = text.lower().split()
        count = max(1, len(words) - _SHINGLE + 1)
        shingles = [tuple(words[i : i + _SHINGLE]) for i in range(count)]
        old = sum(shingle in self._seen for shingle in shingles)
        self._seen.update(shingles)
        return 2 * old <= count


def read_folder(folder: Path) -> Iterator[Page]:
    """All pages with prose of their own, in the order of their names."""
    repetitions = Repetitions()
    for file in sorted(folder.rglob("*.html")):
        if not _LEFT_OUT.match(file.relative_to(folder).as_posix()):
            page = repetitions.without(read_page(file.read_text("utf-8", errors="replace")))
            if page:
                yield page


def _unpacked(package: Path | None, folder: Path) -> Path:
    """Where the package's files are: installed, or unpacked below `folder`."""
    if package is None and (Path("/") / PAGES / "wal.html").is_file():
        return Path("/")
    if package is None:
        _run("apt-get", "download", PACKAGE, folder=folder)
        package = next(folder.glob("*.deb"))
    _run("dpkg-deb", "-x", str(package.resolve()), ".", folder=folder)
    return folder


def _run(*command: str, folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True)  # noqa: S603 - only the commands above


def main() -> int:
    parser = argparse.ArgumentParser(description="Makes the decoder's text from sqlite3-doc.")
    parser.add_argument("--package", type=Path, help="the .deb file; else installed or fetched")
    parser.add_argument("--out", type=Path, default=FILE)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            root = _unpacked(options.package, Path(folder))
        except (OSError, subprocess.CalledProcessError):
            sys.exit(
                f"{PACKAGE} could not be fetched or unpacked; run apt-get install {PACKAGE}, "
                "or name a .deb of it with --package"
            )
        pages = list(read_folder(root / PAGES))
    write_pages(options.out, pages)
    print(f"{options.out}: {len(pages)} pages, {options.out.stat().st_size:,} bytes packed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
