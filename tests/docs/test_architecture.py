"""The page about the house: its picture and its table are those of the code, its files exist."""

import re
from pathlib import Path

import house

ROOT = Path(__file__).parents[2]

MAKE = "Run `python docs/tools/house.py`."


def test_the_picture_is_drawn_from_the_layer_table():
    assert house.PICTURE.read_text(encoding="utf-8") == house.picture(), MAKE


def test_the_table_says_what_each_journey_enters():
    text = house.PAGE.read_text(encoding="utf-8")
    assert house.page(text, house.journey_table()) == text, MAKE


def test_every_room_has_a_subject_and_stands_on_one_floor():
    rooms = [room for row in house.floors() for room in row]
    assert len(rooms) == len(set(rooms))
    for room in rooms:
        if room != "__main__":
            assert house.subject(room), f"{room} has no docstring"


def test_files_that_the_page_names_exist():
    text = house.PAGE.read_text(encoding="utf-8")
    names = set(re.findall(r"`((?:[a-z_]+/)+[a-z_]*(?:\.[a-z0-9]+)*)`", text))
    assert len(names) > 20
    for name in names:
        homes = (ROOT, ROOT / "gaga_adapter", ROOT / "gaga_adapter" / "criteria")
        assert any((home / name).exists() for home in homes), name
