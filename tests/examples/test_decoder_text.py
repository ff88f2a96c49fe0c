"""The decoder's text: how it is made from pages, kept, split, and read as words."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.decoder.extract import Repetitions, read_folder, read_page
from examples.decoder.text import FILE, read_pages, split, vocabulary, words, write_pages

PAGE = """
<html><head><title>Locks</title><style>p {}</style><script>if (a<b) "x"</script></head><body>
<div class="fancy_toc"><a href="#a">1. What this page is all about, and some more words.</a></div>
<h1 id="a"><span>1.2. </span>Shared Locks</h1>
<p>Any number of readers may hold a <a href="x.html">shared&nbsp;lock</a> at
the same time.<p>Too short.</p>
<blockquote><pre>SELECT a FROM c WHERE this is no prose, it is code.</pre></blockquote>
<table><tr><td>Cells of a table are no prose for anybody to read, so they go.</td></tr></table>
<ul><li>A writer waits until the last of the readers has gone away.</li></ul>
<h2>Nothing below</h2><p>0x01 0x02 0x03 0x04 0x05 0x06 0x07 0x08 0x09.</p>
</body></html>
"""


def test_a_page_is_its_prose_under_its_headings() -> None:
    assert [section for section in read_page(PAGE) if section[1]] == [
        (
            "Shared Locks",
            (
                "Any number of readers may hold a shared lock at the same time.",
                "- A writer waits until the last of the readers has gone away.",
            ),
        )
    ]


def test_what_was_read_before_is_left_out() -> None:
    repetitions = Repetitions()
    first = (("One", ("a b c d e f g h i j", "k l m n o p q r s t")),)
    assert repetitions.without(first) == first
    again = (("Two", ("a b c d e f g h i other", "u v w x y z one two three four")),)
    assert repetitions.without(again) == (("Two", ("u v w x y z one two three four",)),)
    assert repetitions.without(first) == ()


def test_a_folder_is_read_without_lists_of_releases(tmp_path: Path) -> None:
    (tmp_path / "releaselog").mkdir()
    for name in ("locks.html", "news.html", "releaselog/3_0.html"):
        (tmp_path / name).write_text(PAGE)
    (page,) = read_folder(tmp_path)
    assert page == tuple(section for section in read_page(PAGE) if section[1])


def test_pages_are_read_as_they_were_written(tmp_path: Path) -> None:
    pages = [(("A", ("one", "two")), ("B", ("three",))), (("C", ("vier, fünf",)),)]
    write_pages(tmp_path / "text.xz", pages)
    assert read_pages(tmp_path / "text.xz") == [
        ["# A\none\ntwo", "# B\nthree"],
        ["# C\nvier, fünf"],
    ]


def test_the_shipped_text_is_prose_and_a_twentieth_of_its_pages_is_held_out() -> None:
    pages = read_pages()
    training, held_out = split(pages)
    assert len(training) + len(held_out) == sum(map(len, pages))
    assert not set(training) & set(held_out)
    assert sum(map(len, held_out)) > 80_000
    assert sum(map(len, training)) > 2_000_000
    assert all(section.startswith("# ") and "\n" in section for section in training + held_out)
    assert {"database", "the", "sqlite3_step"} <= vocabulary(training)
    assert FILE.stat().st_size < 600_000


@pytest.mark.parametrize(
    ("text", "after", "cut_off", "expected"),
    [
        ("Don't call sqlite3_step() 2 times, X'", 0, False, "don't call sqlite3_step times x"),
        ("The data base", 8, False, "base"),
        ("The database", 8, False, "database"),  # begun before, ended behind
        ("one two thr", 0, True, "one two"),
        ("one two. ", 0, True, "one two"),
    ],
)
def test_words(text: str, after: int, cut_off: bool, expected: str) -> None:
    assert words(text, after, cut_off=cut_off) == expected.split()


@given(st.text())
def test_every_word_of_a_text_is_in_its_vocabulary(text: str) -> None:
    assert set(words(text)) == vocabulary([text])
