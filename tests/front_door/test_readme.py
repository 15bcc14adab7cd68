"""What README.md says of cards is what the plan says now."""

from front_door.card_table import card_table
from host.checkout import PACK


def test_its_table_of_cards_is_the_plans():
    assert card_table() in (PACK / "README.md").read_text(), "run: python tests/front_door/card_table.py"
