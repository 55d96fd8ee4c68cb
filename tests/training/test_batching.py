from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.training.batching import epoch_order, packed_sequences, padded_tokens

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=120)


@given(LENGTHS, st.integers(1, 16), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_every_row_comes_once_an_epoch(lengths, effective, epoch):
    order = epoch_order(lengths, effective, seed=1, epoch=epoch)
    assert sorted(order) == list(range(len(lengths)))


def test_the_order_depends_on_the_seed_and_the_epoch_alone():
    lengths = [random.Random(3).randrange(5, 90) for _ in range(70)]
    first = epoch_order(lengths, 8, seed=42, epoch=0)
    assert epoch_order(lengths, 8, seed=42, epoch=0) == first
    assert epoch_order(lengths, 8, seed=42, epoch=1) != first
    assert epoch_order(lengths, 8, seed=43, epoch=0) != first


def test_rows_of_like_length_share_a_step_so_little_is_padded():
    draw = random.Random(0)
    lengths = [draw.randrange(20, 400) for _ in range(256)]
    real = sum(lengths)
    grouped = padded_tokens(lengths, epoch_order(lengths, 8, seed=42, epoch=0), 8)
    shuffled = padded_tokens(lengths, draw.sample(range(256), 256), 8)
    assert 1 - real / grouped < 0.15
    assert 1 - real / shuffled > 0.35


@given(LENGTHS)
@settings(max_examples=60, deadline=None)
def test_packing_never_needs_fewer_sequences_than_the_tokens_fill(lengths):
    count = packed_sequences(lengths, 300)
    assert -(-sum(lengths) // 300) <= count <= len(lengths)
