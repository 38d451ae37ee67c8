"""The second half of the seeded schedules, in a file of its own: two processes that run tests share files."""

import pytest

from tests.simulator.chunks import CHUNK, SCHEDULES, check


@pytest.mark.parametrize("start", range(SCHEDULES // 2, SCHEDULES, CHUNK))
def test_nothing_goes_wrong_in_the_second_half(start: int) -> None:
    check(range(start, start + CHUNK))
