"""What README.md says of cards and gigabytes is what the plan says now, and its first screen says what matters."""

from front_door.card_table import card_table, gigabytes
from host.checkout import PACK


def test_its_table_of_cards_is_the_plans():
    assert card_table() in (PACK / "README.md").read_text(), "run: python tests/front_door/card_table.py"


def test_its_first_screen_says_what_it_does_on_which_card_how_large_and_what_is_not_known():
    first = (PACK / "README.md").read_text().partition("## Install")[0]
    assert gigabytes() in first, "run: python tests/front_door/card_table.py"
    assert "never run on the real weights" in first and "8, 12, 16 and 24 GB" in first
    assert len(first.split()) < 260
