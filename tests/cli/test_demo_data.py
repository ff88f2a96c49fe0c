"""The demo's data: its shape and its variety. tests/e2e/test_demo.py says how well it matches."""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations

from dsi_mqtt.cli.demo_data import load_hazards, load_reports

HAZARDS = load_hazards()
REPORTS = load_reports()


def folded(text: str) -> str:
    return " ".join(text.casefold().split())


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))


def test_hazards_are_complete_and_distinct() -> None:
    assert 16 <= len(HAZARDS) <= 20
    assert len({hazard.id for hazard in HAZARDS}) == len(HAZARDS)
    assert len({folded(hazard.title) for hazard in HAZARDS}) == len(HAZARDS)
    for hazard in HAZARDS:
        assert all(text.strip() for text in (hazard.title, hazard.action, *hazard.signs)), hazard.id
        assert 1 <= len(re.findall(r"[.!?](?:\s|$)", hazard.description)) <= 2, hazard.id


def test_no_passage_stands_for_two_hazards() -> None:
    passages = [folded(passage) for hazard in HAZARDS for passage in hazard.passages]
    assert len(set(passages)) == len(passages)


def test_reports_are_enough_and_their_ids_unique() -> None:
    assert len(REPORTS) >= 240
    assert len({report.id for report in REPORTS}) == len(REPORTS)


def test_every_hazard_is_reported_often_enough() -> None:
    counts = Counter(report.hazard for report in REPORTS)
    assert counts.keys() == {hazard.id for hazard in HAZARDS}
    assert min(counts.values()) >= 8


def test_reports_come_from_every_source() -> None:
    counts = Counter(report.source for report in REPORTS)
    assert counts.keys() == {
        "bus-driver",
        "camera-operator",
        "citizen-app",
        "patrol",
        "roadside-unit",
    }
    assert min(counts.values()) >= len(REPORTS) // 10


def test_all_texts_differ_beyond_case_and_space() -> None:
    texts = Counter(folded(report.text) for report in REPORTS)
    assert [text for text, count in texts.items() if count > 1] == []


def test_no_two_reports_share_most_of_their_words() -> None:
    bags = [(report.id, words(report.text)) for report in REPORTS]
    alike = [
        (first, second)
        for (first, a), (second, b) in combinations(bags, 2)
        if len(a & b) > 0.5 * len(a | b)
    ]
    assert alike == []


def test_no_report_is_a_passage_of_a_hazard() -> None:
    passages = {folded(passage) for hazard in HAZARDS for passage in hazard.passages}
    assert passages.isdisjoint(folded(report.text) for report in REPORTS)


def test_reports_vary_in_length() -> None:
    lengths = [len(report.text.split()) for report in REPORTS]
    assert min(lengths) >= 4
    assert max(lengths) <= 60
    assert min(lengths) <= 6
    assert max(lengths) >= 45


def test_few_reports_give_the_title_away() -> None:
    titles = {hazard.id: folded(hazard.title) for hazard in HAZARDS}
    verbatim = [report.id for report in REPORTS if titles[report.hazard] in folded(report.text)]
    assert len(verbatim) <= 6, verbatim
