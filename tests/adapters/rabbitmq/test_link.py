"""How soon a broken connection is tried again."""

from __future__ import annotations

from adapters.rabbitmq.link import FIRST_WAIT, HELD, LONGEST_WAIT, next_wait


def test_tries_that_fail_come_ever_later_up_to_a_bound():
    waits = [FIRST_WAIT]
    for _ in range(8):
        waits.append(next_wait(waits[-1], 0.0))
    assert waits[:3] == [FIRST_WAIT, 2 * FIRST_WAIT, 4 * FIRST_WAIT]
    assert waits[-2:] == [LONGEST_WAIT, LONGEST_WAIT]


def test_a_connection_that_lasted_is_missed_at_once_and_one_that_was_refused_is_not():
    assert next_wait(LONGEST_WAIT, 2 * HELD) == FIRST_WAIT
    assert next_wait(LONGEST_WAIT, HELD / 2) == LONGEST_WAIT
