"""The page of ten queries against the queries that are stored."""

import re
from pathlib import Path

from storage.catalog import kept, questions

TOP = Path(__file__).resolve().parents[2]
PAGE = (TOP / "docs" / "queries.md").read_text(encoding="utf-8")
SECTIONS = re.split(r"^## ", PAGE, flags=re.M)[1:]


def test_the_page_has_ten_queries_that_exist_each_once() -> None:
    names = [re.match(r"\d+\. `(\w+)`", section)[1] for section in SECTIONS]
    assert len(names) == len(set(names)) == 10
    assert set(names) - set(questions()) == set()


def test_each_section_has_its_command_its_question_and_an_answer() -> None:
    for number, section in enumerate(SECTIONS, 1):
        name = re.match(rf"{number}\. `(\w+)`", section)[1]
        assert re.findall(r"^    make query NAME=(\w+)$", section, flags=re.M) == [name]
        assert questions()[name] in section.splitlines()
        assert len(re.search(r"```text\n(.*?)```", section, flags=re.S)[1].splitlines()) >= 3, name


def test_every_kept_table_is_named() -> None:
    assert {name for name in kept() if f"`{name}`" not in PAGE} == set()
