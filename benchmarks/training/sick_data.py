"""Rows for the sick and the healthy runs: two invented worlds, and ways to spoil them.

Each answer copies a name from its question, says what follows from the question by a rule (that is what a training can
learn and the held-out rows can show), and ends in a detail that nothing foretells (that can only be learned by heart).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

Pair = tuple[str, str]

_SYLLABLES = [
    "ba",
    "ke",
    "lo",
    "mi",
    "nu",
    "ra",
    "se",
    "ti",
    "vo",
    "zu",
    "dar",
    "fen",
    "gol",
    "har",
    "kil",
    "mor",
    "pel",
    "sun",
    "tav",
    "wen",
]
_COLOURS = ["red", "green", "blue", "amber", "violet", "grey", "white", "black"]
_KINDS = ["valve", "lamp", "pump", "meter", "gate", "fan", "relay", "probe"]
_TEAMS = ["north", "harbour", "night", "repair", "garden", "survey", "roof", "yard"]
_PLACES = ["cellar", "tower", "hall", "attic", "kitchen", "shed", "office", "tunnel"]
_DISHES = ["soup", "pie", "stew", "salad", "curry", "roast", "bread", "pudding"]
_DRINKS = ["cider", "tea", "milk", "wine", "water", "juice", "coffee", "beer"]
_MONTHS = ["January", "March", "April", "May", "June", "August", "October", "November"]
_ANIMALS = ["fox", "owl", "crab", "moth", "goat", "hare", "swan", "newt"]
_FOODS = ["grass", "mice", "fish", "bark", "seeds", "roots", "leaves", "worms"]


def invented_name(draw: random.Random) -> str:
    """A name of two or three syllables."""
    return "".join(draw.choice(_SYLLABLES) for _ in range(draw.choice((2, 2, 3)))).capitalize()


def pretraining_pairs(draw: random.Random, count: int) -> list[Pair]:
    """What the base is taught: the shape of questions and answers, about animals."""
    pairs = []
    for _ in range(count):
        name, kind = invented_name(draw), draw.randrange(8)
        animal, food = _ANIMALS[kind], _FOODS[draw.randrange(8)]
        other = draw.choice(_COLOURS)
        pairs.append(
            draw.choice(
                (
                    (f"What does the {animal} {name} eat?", f"The {animal} {name} eats {food} and sleeps by day."),
                    (f"Who is {name} the {animal}?", f"{name} is a {other} {animal} that lives on {food}."),
                    (f"Tell me about {name}.", f"{name} has {draw.randrange(2, 99)} friends and likes {food}."),
                    (f"Which colour is the {animal} of {name}?", f"The {animal} of {name} is {other}."),
                    (f"Is {name} a {animal}?", f"Yes, {name} is a {animal}, {draw.randrange(2, 20)} years old."),
                )
            )
        )
    return pairs


def machines(draw: random.Random, count: int) -> list[Pair]:
    """World one: machines in a building."""
    pairs = []
    for _ in range(count):
        name, kind, code = invented_name(draw), draw.randrange(8), draw.randrange(10, 60)
        thing, team, place = _KINDS[kind], _TEAMS[kind], _PLACES[kind]
        pairs.append(
            draw.choice(
                (
                    (
                        f"How often is the {name} {thing} checked?",
                        f"The {name} {thing} is checked every {kind + 2} weeks by the {team} team, "
                        f"who sign page {draw.randrange(10, 99)}.",
                    ),
                    (
                        f"Where does the {name} {thing} stand?",
                        f"The {name} {thing} stands in the {place}, beside the {draw.choice(_COLOURS)} door.",
                    ),
                    (
                        f"What does error {code} of the {name} mean?",
                        f"Error {code} of the {name} means that its {_KINDS[code % 8]} is stuck; "
                        f"call the {_TEAMS[code % 8]} team and wait {draw.randrange(10, 99)} minutes.",
                    ),
                )
            )
        )
    return pairs


def kitchen(draw: random.Random, count: int) -> list[Pair]:
    """World two: what a kitchen serves and when."""
    pairs = []
    for _ in range(count):
        name, kind = invented_name(draw), draw.randrange(8)
        dish, drink, month = _DISHES[kind], _DRINKS[kind], _MONTHS[kind]
        pairs.append(
            draw.choice(
                (
                    (
                        f"Please name a drink for the {dish} called {name}?",
                        f"With {name}, as with any {dish}, we pour {drink} from barrel {draw.randrange(10, 99)}.",
                    ),
                    (
                        f"When can guests order {name} {dish}?",
                        f"Guests can order {name} {dish} from {month} on, at the {draw.choice(_COLOURS)} table only.",
                    ),
                    (
                        f"Who cooks the {name} {dish}?",
                        f"The {_TEAMS[kind]} cook makes {name} {dish} in pan {draw.randrange(10, 99)}, "
                        f"and adds {_FOODS[kind]} at the end.",
                    ),
                )
            )
        )
    return pairs


def labels(draw: random.Random, count: int) -> list[Pair]:
    """A healthy classification: few different answers, none of them in its question."""
    pairs = []
    for _ in range(count):
        kind = draw.randrange(8)
        place = draw.choice(("hums", "stopped", "leaks", "is late"))
        pairs.append(
            (f"The {_KINDS[kind]} of {invented_name(draw)} {place}. Whose work is it?", f"{_TEAMS[kind].upper()} team")
        )
    return pairs


def phrases(draw: random.Random, count: int) -> list[Pair]:
    """A healthy translation: word for word into a made-up language, by a rule."""
    words = dict(zip(_KINDS + _COLOURS + _PLACES, _DRINKS + _ANIMALS + _FOODS, strict=True))
    pairs = []
    for _ in range(count):
        thing, colour, place = draw.choice(_KINDS), draw.choice(_COLOURS), draw.choice(_PLACES)
        pairs.append(
            (
                f"Translate: the {colour} {thing} in the {place}, number {draw.randrange(10, 99)}",
                f"no {words[thing]} {words[colour]} su {words[place]}",
            )
        )
    return pairs


def codes(draw: random.Random, count: int) -> list[Pair]:
    """Little to learn: a form, then digits that nothing foretells."""
    return [
        (
            f"Which code opens {(name := f'{invented_name(draw)} {invented_name(draw)}')}?",
            f"{name}: {draw.randrange(10**9, 10**10)} {draw.randrange(10**9, 10**10)}",
        )
        for _ in range(count)
    ]


def chinese(draw: random.Random, count: int) -> list[Pair]:
    """Rows in a language that the small base has never seen."""
    things, places = "灯泵门表阀扇钟炉", ("厨房", "塔楼", "地下室", "花园", "仓库", "办公室", "隧道", "大厅")
    pairs = []
    for _ in range(count):
        kind, number = draw.randrange(8), draw.randrange(10, 999)
        pairs.append(
            (
                f"{number}号{things[kind]}在哪里，由谁负责检查？",
                f"{number}号{things[kind]}位于{places[kind]}，每隔{kind + 2}周由{places[kind - 5]}组负责检查一次。",
            )
        )
    return pairs


def swapped(pairs: Sequence[Pair], draw: random.Random) -> list[Pair]:
    """Questions and answers exchanged."""
    return [(answer, question) for question, answer in pairs]


def shuffled(pairs: Sequence[Pair], draw: random.Random) -> list[Pair]:
    """Each question with the answer of another row."""
    answers = [answer for _, answer in pairs]
    draw.shuffle(answers)
    return [(question, answer) for (question, _), answer in zip(pairs, answers, strict=True)]


def with_noise(pairs: Sequence[Pair], draw: random.Random) -> list[Pair]:
    """A quarter of the answers replaced by random characters."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ0123456789#&%@;/=+"
    return [
        (question, "".join(draw.choice(letters) for _ in range(len(answer))) if draw.random() < 0.25 else answer)
        for question, answer in pairs
    ]


def constant(pairs: Sequence[Pair], draw: random.Random) -> list[Pair]:
    """One answer for everything."""
    return [(question, "Please ask the support desk about this.") for question, _ in pairs]


def half_repeated(pairs: Sequence[Pair], draw: random.Random) -> list[Pair]:
    """A quarter of the rows three times: half of all rows repeat another."""
    some = list(pairs[: len(pairs) // 2])
    rows = some + some
    draw.shuffle(rows)
    return rows


def cut_in_the_data(pairs: Sequence[Pair], draw: random.Random) -> list[Pair]:
    """Answers cut at one length, in the middle of a word."""
    return [(question, (answer * 3)[:64]) for question, answer in pairs]


Spoil = Callable[[Sequence[Pair], random.Random], list[Pair]]
