"""What the facts of the rows say against the data, most telling first. Pure; thresholds are constants here."""

from __future__ import annotations

import math

from tunesmith.training.fact_records import Facts
from tunesmith.training.records import Advice

ENOUGH_ROWS = 8
LEAKED = 0.1
FEW_LEAKED = 3  # rows; fewer may be chance
SAME_ANSWER = 0.9
REPEATED = 0.3
UNENDED = 0.3
CUT_IN_DATA = 0.3
ASKING_ANSWERS, ASKING_PROMPTS = 0.5, 0.2
GARBLED = 0.08
FOREIGN_BYTES_PER_TOKEN = 1.6
KNOWN_PIECES = 1000  # a vocabulary below this has one token a byte or letter whatever the language
MIN_CONTROL_ROWS = 11  # fewer pairs say nothing that is not noise
LEARNED = 0.8  # of the loss before, from which the model has learned something of these rows
FLUENT = 0.5  # of the logarithm of the vocabulary, the loss of guessing
EXCHANGED_UNLEARNED = 0.004  # the same for a base that has still to learn the language
EXCHANGED = 0.02  # relative rise of the loss with exchanged answers, below which they may as well belong to others


def suspicion(facts: Facts) -> tuple[str, Advice] | None:
    """The evidence and what to do about it; None where nothing is suspect."""
    if facts.rows < ENOUGH_ROWS:
        return None
    found = [case for case in (
        _leak(facts),
        _same_answer(facts),
        _unended(facts),
        _swapped(facts),
        _garbled(facts),
        _foreign(facts),
        _unrelated(facts),
        _repeated(facts),
        _cut_in_data(facts),
    ) if case is not None]  # fmt: skip
    return found[0] if found else None


def _leak(facts: Facts) -> tuple[str, Advice] | None:
    if facts.leaked_share < LEAKED or facts.leaked_share * facts.held_out < FEW_LEAKED - 0.5:
        return None
    return (
        f"{facts.leaked_share:.0%} of the held-out rows ask or answer what is trained on as well: "
        "the held-out loss says nothing.",
        Advice(
            change="Divide the rows anew with split_dataset",
            why="It keeps rows that repeat each other on one side; only then does the held-out loss tell.",
        ),
    )


def _same_answer(facts: Facts) -> tuple[str, Advice] | None:
    if facts.commonest_answer_share < SAME_ANSWER:
        return None
    return (
        f"{facts.commonest_answer_share:.0%} of the rows have one and the same answer.",
        Advice(
            change="Look at the rows with preview_dataset and import them with the right answer field",
            why="A model that sees one answer learns to say it whatever is asked.",
        ),
    )


def _unended(facts: Facts) -> tuple[str, Advice] | None:
    if facts.unended_share < UNENDED:
        return None
    return (
        f"{facts.unended_share:.0%} of the answers end without the token that ends an answer, "
        f"and {facts.cut_share:.0%} of the rows were cut at max_length: the model does not learn to stop.",
        Advice(
            change="Leave max_length out, so that it fits the longest row", why="An answer is learned with its end."
        ),
    )


def _swapped(facts: Facts) -> tuple[str, Advice] | None:
    if facts.asking_answers_share < ASKING_ANSWERS or facts.asking_prompts_share > ASKING_PROMPTS:
        return None
    return (
        f"{facts.asking_answers_share:.0%} of the answers end with a question mark and "
        f"{facts.asking_prompts_share:.0%} of the prompts do: questions and answers look exchanged.",
        Advice(
            change="Import the rows again with the two fields exchanged",
            why="As they are, the model learns to ask, not to answer.",
        ),
    )


def _garbled(facts: Facts) -> tuple[str, Advice] | None:
    if facts.garbled_share < GARBLED:
        return None
    return (
        f"{facts.garbled_share:.0%} of the answers look like no language: many tokens a letter, "
        "and letters in an order that no other row has.",
        Advice(
            change="Run score_dataset, then clean_dataset", why="Damaged rows teach damage; it finds and drops them."
        ),
    )


def _foreign(facts: Facts) -> tuple[str, Advice] | None:
    if facts.vocabulary < KNOWN_PIECES or not 0 < facts.bytes_per_token < FOREIGN_BYTES_PER_TOKEN:
        return None
    return (
        f"The base needs a token for every {facts.bytes_per_token:.1f} bytes of this text; in a language it knows, "
        "one holds about four.",
        Advice(
            change="Choose a base that knows this language; list_models names their languages",
            why="A few thousand rows teach no language.",
        ),
    )


def _unrelated(facts: Facts) -> tuple[str, Advice] | None:
    before, after = facts.control_before, facts.control_after
    if before is None or after is None or min(before.own, after.own, after.rows - MIN_CONTROL_ROWS) <= 0:
        return None
    if after.own > LEARNED * before.own:
        return None  # what has learned nothing knows nothing of the questions either
    rise = after.exchanged / after.own - 1
    if before.own < FLUENT * math.log(max(2, facts.vocabulary)):
        # A base that knows the language sees what belongs together before it is taught.
        rise = max(rise, before.exchanged / before.own - 1)
        enough = EXCHANGED
    else:
        enough = EXCHANGED_UNLEARNED
    if rise >= enough:
        return None
    return (
        f"With the answers of {after.rows} held-out rows exchanged the loss is {after.exchanged:.3f}, "
        f"with their own {after.own:.3f}: the answers do not depend on the questions.",
        Advice(
            change="Look at the rows with preview_dataset; they may have slipped against each other",
            why="From answers to other questions only their style can be learned.",
        ),
    )


def _repeated(facts: Facts) -> tuple[str, Advice] | None:
    if facts.repeated_share < REPEATED:
        return None
    return (
        f"{facts.repeated_share:.0%} of the rows repeat another.",
        Advice(
            change="Run clean_dataset with drop duplicates",
            why="A row that comes twice is learned by heart, at the cost of the others.",
        ),
    )


def _cut_in_data(facts: Facts) -> tuple[str, Advice] | None:
    if facts.longest_answer_share < CUT_IN_DATA or facts.distinct_answers * 2 < facts.rows:
        return None
    return (
        f"{facts.longest_answer_share:.0%} of the answers have exactly the longest length: "
        "they were cut before they came here.",
        Advice(
            change="Extract the rows again without the limit, or with a higher max_answer_chars",
            why="Answers that break off teach the model to break off.",
        ),
    )
