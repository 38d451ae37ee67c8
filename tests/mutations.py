"""Rules of the package, each broken on purpose in a copy of it: ``python -m tests.mutations``, or with names after it.

A rule that no test holds is none. Each mutant changes a few words of one module; the tests that are named for it have
to fail then, and pass on the same copy without it. ``make mutants`` does it for all.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[1]
_NEEDED: Final = ("llmcache", "tests", "project", "templates", "_llmcache_pytest.py", "manage.py", "pyproject.toml")
_SECONDS: Final = 300.0
_LEASES: Final = "tests/contract/test_leases.py"
_RUN_OUT: Final = f"{_LEASES}::test_one_that_has_run_out_is_taken_and_its_holder_publishes_nothing"


class Mutant(NamedTuple):
    """A rule, where it stands, what stands there in its place, and who has to notice."""

    rule: str
    module: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTANTS: Final[dict[str, Mutant]] = {
    "publish-not-fenced": Mutant(
        "Redis keeps an answer only for who holds its lease",
        "llmcache/tiers/redis_leases.py",
        "if holder and holder ~= ARGV[1] and (string.sub(holder, 1, 1)",
        "if false and (string.sub(holder, 1, 1)",
        (f"{_RUN_OUT}[Redis]",),
    ),
    "publish-not-fenced-on-disk": Mutant(
        "a disk tier keeps an answer only for who holds its lease",
        "llmcache/tiers/disk_leases.py",
        "if _is_held(holder) and holder != lease.token:",
        "if False:",
        (f"{_RUN_OUT}[disk]",),
    ),
    "publish-not-fenced-by-rows": Mutant(
        "with leases in PostgreSQL an answer is kept only for who holds its lease",
        "llmcache/lease_rows.py",
        "if holder not in (None, token):",
        "if False:",
        (f"{_RUN_OUT}[PostgreSQL]",),
    ),
    "publish-over-what-came-meanwhile": Mutant(
        "a lease that is gone does not overwrite what came since it was taken",
        "llmcache/tiers/redis_leases.py",
        "if ARGV[2] ~= '{ANY.decode()}' and redis.call('GETRANGE', KEYS[1]",
        "if false and redis.call('GETRANGE', KEYS[1]",
        (f"{_LEASES}::test_one_that_is_gone_does_not_overwrite_what_came_meanwhile[Redis]",),
    ),
    "joined-by-key-alone": Mutant(
        "who has seen an invalidation does not join who has not",
        "llmcache/engine/policy.py",
        "own = port.flight(call.key + view.seen)",
        "own = port.flight(call.key)",
        ("tests/flows/test_invalidation.py::test_who_asks_after_it_does_not_join_who_asked_before",),
    ),
    "log-read-after-the-call": Mutant(
        "the log is read before the provider is asked",
        "llmcache/engine/policy.py",
        "entry = port.entry(call, reply, self.spent, port.now() - began, self.view.seen)",
        "entry = port.entry(call, reply, self.spent, port.now() - began, (await port.view(call)).seen)",
        ("tests/flows/test_invalidation.py::test_an_answer_that_was_under_way_is_void_on_arrival",),
    ),
    "no-second-look": Mutant(
        "who leads in a process looks again before it asks",
        "llmcache/engine/policy.py",
        "answered, reason = await _look(call, port, view, again=True)",
        'answered, reason = None, "not_found"',
        ("tests/simulator/test_schedules.py::test_nothing_goes_wrong_in_the_first_half[0]",),
    ),
    "no-look-at-the-lease": Mutant(
        "who takes a lease looks again in the same step",
        "llmcache/tiers/redis_leases.py",
        "and head ~= '' and head ~= ARGV[3] then",
        "and false then",
        (f"{_LEASES}::test_what_was_published_is_found[Redis]",),
    ),
    "released-without-the-token": Mutant(
        "a lease is ended by its holder alone",
        "llmcache/tiers/redis_leases.py",
        "if redis.call('GET', KEYS[1]) == ARGV[1] then\n  if ARGV[2]",
        "if true then\n  if ARGV[2]",
        (f"{_LEASES}::test_ended_by_its_holder_alone[Redis]",),
    ),
    "renewed-without-the-token": Mutant(
        "a renewal takes nobody's lease away",
        "llmcache/tiers/redis_leases.py",
        "if not holder or holder == ARGV[place + 1] then",
        "if true then",
        (f"{_LEASES}::test_renewed_when_it_is_gone_it_is_taken_anew_and_another_holders_is_not[Redis]",),
    ),
    "never-renewed": Mutant(
        "leases are renewed while their calls last",
        "llmcache/engine/leases.py",
        "        if renewed:\n            self._renew(renewed)",
        "        if False:\n            self._renew(renewed)",
        (f"{_LEASES}::test_they_are_renewed_while_their_calls_last_and_not_longer[disk]",),
    ),
    "ghosts-hold": Mutant(
        "a process does not wait for a lease that it has given up on itself",
        "llmcache/engine/leases.py",
        'if reply.state == "waits" and reply.holder in self._given_up:',
        "if False:",
        (f"{_LEASES}::test_a_lease_that_a_process_gave_up_on_does_not_keep_it_waiting[Redis]",),
    ),
    "failures-told-to-all": Mutant(
        "how a call has failed is told to who has waited for it, and to nobody else",
        "llmcache/tiers/redis_leases.py",
        "if ARGV[5] ~= '' and string.sub(holder, 2, {TOKEN_BYTES + 1}) == ARGV[5] then",
        "if true then",
        (f"{_LEASES}::test_how_it_failed_is_told_to_who_has_waited_for_it_alone[Redis]",),
    ),
    "one-error-for-all": Mutant(
        "each who waited raises an error of its own",
        "llmcache/engine/policy.py",
        "raise landing.error.again().add(attempts=0, cost_usd=Decimal(0))",
        "raise landing.error",
        ("tests/flows/test_flights.py::test_a_leaders_error_is_each_followers_own",),
    ),
    "flights-over-a-fork": Mutant(
        "a forked child has none of its parent's flights",
        "llmcache/engine/flights.py",
        "        self._lock = threading.Lock()\n        self._flights = {}\n",
        "        self._lock = threading.Lock()\n",
        ("tests/flows/test_flights.py::test_a_forked_child_starts_with_no_flights_and_no_counts",),
    ),
    "waits-for-itself": Mutant(
        "a call that would wait for itself is told so",
        "llmcache/engine/policy.py",
        "if port.leads_itself(flight):",
        "if False:",
        ("tests/flows/test_flights.py::test_a_validator_that_asks_for_its_own_request_is_told_so",),
    ),
    "tenant-out-of-the-key": Mutant(
        "tenants never meet",
        "llmcache/keys.py",
        "parts = [_tagged(tenant), _tagged(subject),",
        "parts = [_tagged(None), _tagged(subject),",
        (
            "tests/flows/test_extract.py::test_tenants_never_meet",
            "tests/flows/test_tenants.py::test_many_tenants_ask_the_same_and_share_nothing",
        ),
    ),
    "an-error-stored": Mutant(
        "what does not pass validation is never kept",
        "llmcache/engine/policy.py",
        "                    self.last = None\n",
        "                    await port.write(entry, reply.rest, None, self.flight)\n",
        ("tests/flows/test_faults.py::test_a_fault_is_the_right_error_and_nothing_is_stored",),
    ),
    "asked-before-it-is-noted": Mutant(
        "an attempt is in the journal before it leaves",
        "llmcache/engine/ports.py",
        "        journal.started(call_id, facts)\n",
        "",
        ("tests/flows/test_interrupts.py::test_an_interrupt_while_the_provider_is_asked_ends_the_line_in_doubt",),
    ),
}


def named_tests(mutant: Mutant) -> list[tuple[Path, str]]:
    """Return the files and functions of a mutant's tests."""
    split = [test.split("[")[0].split("::") for test in mutant.tests]
    return [(ROOT / path, function) for path, function in split]


def broken(mutant: Mutant, text: str) -> str:
    """Return a module's text without its rule; ValueError when it does not stand there once."""
    if text.count(mutant.old) != 1:
        raise ValueError(f"{mutant.module} has {text.count(mutant.old)} of {mutant.old!r}: write the mutant anew")
    return text.replace(mutant.old, mutant.new)


class Copy:
    """A copy of the package and its tests, in a folder that goes with it."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="llmcache-mutants-")
        self.path = Path(self._folder.name)
        for name in _NEEDED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, self.path / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, self.path / name)

    def __enter__(self) -> Copy:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def failing(self, tests: Sequence[str], mutant: Mutant | None = None) -> int | None:
        """Return how many of these tests fail; None when pytest could not run them."""
        module = None if mutant is None else self.path / mutant.module
        right = "" if module is None else module.read_text()
        try:
            if module is not None and mutant is not None:
                module.write_text(broken(mutant, right))
            done = subprocess.run(
                [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", *tests],
                cwd=self.path, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}, stdin=subprocess.DEVNULL,
                capture_output=True, text=True, timeout=_SECONDS, check=False,
            )  # fmt: skip
        finally:
            if module is not None:
                module.write_text(right)
        if done.returncode not in (0, 1):
            print(done.stdout[-2_000:] + done.stderr[-2_000:], file=sys.stderr)
            return None
        return sum(int(count) for count in re.findall(r"(\d+) (?:failed|error)", done.stdout.splitlines()[-1]))


def main(names: Sequence[str]) -> int:
    """Print what becomes of each mutant; 1 when one lives, or nothing can be said of it."""
    if unknown := sorted({*names} - MUTANTS.keys()):
        print(f"There is no mutant {', '.join(unknown)}. There are: {', '.join(MUTANTS)}.", file=sys.stderr)
        return 2
    chosen = {name: MUTANTS[name] for name in names or MUTANTS}
    lived = 0
    with Copy() as copy:
        tests = sorted({test for mutant in chosen.values() for test in mutant.tests})
        if (failing := copy.failing(tests)) != 0:
            print(f"Without any mutant {failing} of the tests fail: nothing can be said.", file=sys.stderr)
            return 1
        for name, mutant in chosen.items():
            began = time.monotonic()
            failing = copy.failing(mutant.tests, mutant)
            lived += not failing
            told = "cannot be told" if failing is None else "killed" if failing else "LIVES"
            seconds = time.monotonic() - began
            print(f"{told:<15}{name:<34}{failing or 0:>3} failed {seconds:6.1f} s   {mutant.rule}", flush=True)
    print(f"{len(chosen) - lived} of {len(chosen)} mutants are killed.")
    return int(lived > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
