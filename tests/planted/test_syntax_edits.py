"""Edits of syntax trees: what each does, what a pattern finds whatever the layout, and what is said of a misfit."""

import ast

import pytest
from syntax_edits import EditError, edited

SOURCE = '''
LIMIT: int = 3 * 10
QUERY = """SELECT name FROM users
WHERE age < 7"""


class Till:
    """Where one pays."""

    @property
    def total(self) -> int:
        return self.sum + self.tax  # in cents

    async def pay(self, coins, *, now):
        """Take `coins`."""
        if now < self.opens_at: return None
        if (
            not coins
            or self.is_full
        ):
            await self.say("no", at=now, loud=True)
            return None
        kept = [coin for coin in coins if coin.is_good]
        self.keep(kept)
        await self.say("thanks", at=now)
        return len(kept)
'''

EDITS = {
    "a condition never holds": ("Till.pay", {"never": "$NOW < self.opens_at"}, "if False:"),
    "a part always holds": ("Till.pay", {"always": "self.is_full"}, "if not coins or True:"),
    "statements go": ("Till.pay", {"drop": "if $EARLY: return None"}, '"""Take `coins`."""\n        if not coins'),
    "a block that is empty passes": ("Till.total", {"drop": "return $X"}, "total(self) -> int:\n        pass"),
    "an expression": ("Till.total", {"replace": "$A + $B", "put": "$B - $A"}, "return self.tax - self.sum"),
    "any rest": ("Till.pay", {"replace": "await self.say('no', ...)", "put": "pass"}, "is_full:\n            pass\n"),
    "keywords in any order": (
        "Till.pay",
        {"replace": "self.say($WORD, loud=$LOUD, at=$AT)", "put": "self.say($WORD, at=$AT)"},
        "self.say('no', at=now)",
    ),
    "the same thing twice": (
        "Till.pay",
        {"replace": "[$COIN for $COIN in $COINS if $GOOD]", "put": "$COINS"},
        "kept = coins",
    ),
    "several statements": (
        "Till.pay",
        {"replace": "self.keep($KEPT)\n...\nreturn len($KEPT)", "put": "return len($KEPT)"},
        "if coin.is_good]\n        return len(kept)",
    ),
    "before": ("Till.pay", {"insert": "return 0", "before": "self.keep(...)"}, "return 0\n        self.keep"),
    "after": ("Till.pay", {"insert": "$KEPT.pop()", "after": "self.keep($KEPT)"}, "keep(kept)\n        kept.pop()"),
    "order": (
        "Till.pay",
        {"move": "await self.say('thanks', ...)", "before": "self.keep(...)"},
        "await self.say('thanks', at=now)\n        self.keep(kept)",
    ),
    "a body": ("Till.total", {"becomes": "return 0"}, "def total(self) -> int:\n        return 0"),
    "a constant": ("LIMIT", {"becomes": "4"}, "LIMIT: int = 4"),
    "a text": ("QUERY", {"text": "age < 7", "put": "TRUE"}, "WHERE TRUE"),
}


@pytest.mark.parametrize("what", EDITS)
def test_it_is_made(what: str) -> None:
    name, edit, expected = EDITS[what]
    wrong = edited(SOURCE, name, edit)
    assert expected in wrong
    assert expected not in ast.unparse(ast.parse(SOURCE))


def test_one_of_several_is_chosen_by_its_number() -> None:
    wrong = edited(SOURCE, "Till.pay", {"replace": "return None", "put": "return 5"}, nth=2)
    assert wrong.count("return None") == wrong.count("return 5") == 1
    assert wrong.index("return None") < wrong.index("return 5")


MISFITS = {
    "a function": ("Till.play", {"becomes": "return"}, "there is no Till.play in this file; similar: Till.pay"),
    "nothing": ("Till.pay", {"drop": "self.lose()"}, r"the pattern 'self.lose\(\)' matches 0 times, not once"),
    "two": ("Till.pay", {"drop": "return None"}, r"matches 2 times \(lines 16, 22\), not once"),
    "a name": ("Till.pay", {"insert": "lose(cash)", "before": "self.keep(...)"}, "names lose, which is not known"),
    "an attribute": ("Till.total", {"becomes": "return self.cash"}, "names self.cash, which this file does not have"),
    "a wildcard": ("Till.total", {"replace": "$A + $B", "put": "$C"}, r"\$C is not in the pattern"),
    "no change": ("Till.total", {"replace": "$A + $B", "put": "$A + $B"}, "the edit changes nothing"),
    "no edit": ("Till.total", {"replace": "$A"}, "no edit is made of replace"),
    "no Python": ("Till.total", {"drop": "return return"}, "this is not Python"),
}


@pytest.mark.parametrize("what", MISFITS)
def test_what_does_not_fit_is_reported_in_words(what: str) -> None:
    name, edit, message = MISFITS[what]
    with pytest.raises(EditError, match=message):
        edited(SOURCE, name, edit)


def test_layout_comments_annotations_and_local_names_do_not_matter() -> None:
    other = (
        SOURCE.replace("coins", "money").replace("kept", "taken").replace("coin ", "piece ").replace("coin.", "piece.")
    )
    other = other.replace("def pay(self, money, *, now)", "def pay(self, money: list, *, now: float) -> int")
    other = other.replace(
        'await self.say("thanks", at=now)',
        "await self.say(  # politely\n            'thanks',\n            at=now,\n        )",
    )
    for name, edit, _ in EDITS.values():
        assert edited(other, name, edit) != ast.unparse(ast.parse(other))
