"""Who calls, who invalidates, who undoes, and what goes wrong: tasks of simulated processes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel

from llmcache.engine.call import Call
from llmcache.engine.log import Pending
from llmcache.engine.log_copy import Row
from llmcache.engine.predicates import EVERYTHING, Facts, Predicate
from llmcache.envelope import SEEN_ID_BYTES
from llmcache.plans import Plans
from llmcache.providers.openai_provider import OpenAIProvider
from llmcache.setting_values import ProviderSettings
from tests.simulator.oracle import LONGEST_CALL, Change
from tests.simulator.port import Process, ask_for
from tests.simulator.schedule import Task, step

if TYPE_CHECKING:
    from tests.simulator.world import World


class Answer(BaseModel):
    """An answer that says which attempt has brought it."""

    asked: int


def _call(content: str, tags: tuple[str, ...]) -> Call:
    provider = OpenAIProvider("simulated", ProviderSettings(api_key="none", base_url="http://127.0.0.1:9/v1"))
    plan = Plans().get(Answer, provider, "model", None, None, lambda _kind: "", {})
    return Call(
        plan=plan,
        content=content,
        scope=b"",
        key=plan.key(b"", content.encode()),
        ttl=None,
        cache="use",
        timeout=LONGEST_CALL,
        max_retries=1,
        max_reasks=1,
        needs_completion=False,
        unkeyed={},
        tags=tags,
        facts=Facts(None, (), plan.response.name, plan.model, tags, plan.kind),
    )


FIRST: Final = _call("first", ("vip",))
SECOND: Final = _call("second", ())
_SHORT: Final = {call.content: replace(call, timeout=1.0) for call in (FIRST, SECOND)}
_ONLY: Final = {call.content: replace(call, cache="only") for call in (FIRST, SECOND)}
_BYPASS: Final = {call.content: replace(call, cache="bypass") for call in (FIRST, SECOND)}
_REFRESH: Final = {call.content: replace(call, cache="refresh") for call in (FIRST, SECOND)}
_PREDICATES: Final = (
    EVERYTHING,
    EVERYTHING,
    Predicate(tag="vip"),
    Predicate(key=FIRST.key.hex()),
    Predicate(kind=FIRST.plan.kind),
)
_PAUSES: Final = (0.0, 0.0, 0.0, 0.2, 0.9, 1.9, 2.6)


async def call_again_and_again(world: World, process: Process, times: int) -> None:
    """Ask for one of few things, a few times."""
    random, me = world.schedule.random, world.me()
    for _ in range(times):
        await step("pauses", random.choice(_PAUSES))
        await ask_for(world.make_port, process, me, _any_call(world))


def _any_call(world: World) -> Call:
    random = world.schedule.random
    call = FIRST if random.random() < 0.8 else SECOND
    odds = random.random()
    if odds < 0.85:
        return call
    if odds < 0.91:
        return _SHORT[call.content]
    return (_ONLY if odds < 0.95 else _REFRESH if odds < 0.98 else _BYPASS)[call.content]


async def invalidate(world: World, process: Process) -> None:
    """Invalidate something, as ``llmcache.invalidate`` does, in a transaction or without one."""
    schedule, me = world.schedule, world.me()
    random = schedule.random
    await step("pauses", random.choice(_PAUSES))
    predicate = random.choice(_PREDICATES)
    await _make(world, process, predicate)
    if random.random() < 0.5:
        await ask_for(world.make_port, process, me, _any_call(world))


async def correct(world: World, process: Process) -> None:
    """Answer in place of the provider, as ``corrections.correct`` does."""
    random = world.schedule.random
    await step("pauses", random.choice(_PAUSES))
    await _make(world, process, Predicate(key=FIRST.key.hex()), corrects=True)
    if random.random() < 0.5:
        await ask_for(world.make_port, process, world.me(), FIRST)


async def _make(world: World, process: Process, predicate: Predicate, *, corrects: bool = False) -> None:
    schedule, me = world.schedule, world.me()
    random = schedule.random
    in_transaction = random.random() < 0.6
    if in_transaction and random.random() < 0.3:
        await ask_for(world.make_port, process, me, _any_call(world))
    await process.confirm()
    number, supersedes = world.table.next_number(), process.log.heads(predicate)
    row = Row(number, _id_of(number), predicate, True, supersedes, corrects)
    change = Change(row, me, process)
    world.oracle.invalidations.append(change)
    what = f"{_said(predicate)}{', with an answer of its own' if corrects else ''}"
    schedule.say(f"makes row {number}: {what}, instead of {[_number(each) for each in supersedes]}")
    await _commit(world, change, in_transaction=in_transaction)


async def undo(world: World, process: Process) -> None:
    """Undo an invalidation that is committed, as ``llmcache.undo`` does."""
    schedule, me = world.schedule, world.me()
    await step("pauses", schedule.random.choice(_PAUSES))
    for _ in range(40):
        in_force = [row for row in world.table.committed.values() if row.active]
        if in_force:
            break
        await step("looks for something to undo", 0.1)
    else:
        return
    row = schedule.random.choice(in_force)
    change = Change(row._replace(active=False), me, process)
    world.oracle.undos.setdefault(row.id, []).append(change)
    schedule.say(f"undoes row {row.number}")
    await _commit(world, change, in_transaction=schedule.random.random() < 0.5)
    if schedule.random.random() < 0.5:
        await ask_for(world.make_port, process, me, _any_call(world))


async def _commit(world: World, change: Change, *, in_transaction: bool) -> None:
    schedule, process, log = world.schedule, change.process, change.process.log
    pending = None
    if in_transaction:
        # Django takes the callbacks out before it calls the first of them.
        pending = Pending((change.row,), lambda: not change.rolled_back and change.committed is None)
        log.add_pending(pending)
        schedule.say("knows of it")
        change.made = schedule.tick
        try:
            await _go_on_in_transaction(world, change)
        except BaseException:
            change.rolled_back = True
            raise
        if schedule.random.random() < 0.2:
            schedule.say("rolls back")
            change.rolled_back = True
            return
    world.table.committed[change.row.number] = change.row
    schedule.say(f"commits row {change.row.number}{'' if change.row.active else ', undone'}")
    change.committed, change.committed_at = schedule.tick, schedule.now
    if in_transaction and not world.is_down and schedule.random.random() < 0.3:
        # In somebody else's callback, called before ours.
        await ask_for(world.make_port, process, change.task, _any_call(world))
    await step("is about to tell", schedule.random.choice((0.0, 0.0, 0.3, 2.0)))
    log.commit((change.row,), pending)
    schedule.say("has told its process")
    change.told = schedule.tick
    if change.made is None:
        change.made = schedule.tick


async def _go_on_in_transaction(world: World, change: Change) -> None:
    random = world.schedule.random
    await step("is in its transaction", random.choice((0.0, 0.0, 0.5)))
    if random.random() < 0.4:
        await ask_for(world.make_port, change.process, change.task, _any_call(world))


async def go_wrong(world: World) -> None:
    """Interrupt a caller, take its thread away, or end a process."""
    random = world.schedule.random
    for _ in range(random.choice((0, 0, 1, 2))):
        await step("lurks", random.choice((0.0, 0.1, 0.8, 2.0)))
        for _ in range(random.randrange(6)):
            await step("lurks")
        odds = random.random()
        if odds < 0.2:
            process = random.choice(world.processes)
            if process.die():
                world.schedule.say(f"kills the process {process.name}")
            continue
        running = [task for task in world.actors if task.is_alive() and task.has_begun and not task.runs]
        if running:
            _strike(world, random.choice(running), gone=odds < 0.5)


async def trouble_the_store(world: World) -> None:
    """Let the store stand still, forget everything or be restarted, and stop processes for longer than leases live."""
    random, schedule = world.schedule.random, world.schedule
    for _ in range(random.choice((1, 1, 2, 3))):
        await step("lurks", random.choice((0.1, 0.4, 0.8, 2.0)))
        for _ in range(random.randrange(6)):
            await step("lurks")
        odds = random.random()
        if odds < 0.2:
            schedule.say("lets the store stand still")
            world.tier.stand_still(random.choice((0.3, 1.0, 3.0)))
        elif odds < 0.4:
            schedule.say("flushes the store" if odds < 0.3 else "restarts the store")
            world.scripts.flush()
            world.tier.flush(0.0 if odds < 0.3 else 0.5)
        else:
            process = random.choice(world.processes)
            if process.stop(random.choice((0.5, 2.0, 4.0))):
                schedule.say(f"stops the process {process.name}")


async def strike(world: World) -> None:
    """Interrupt who waits for an answer of the store, in the middle of that."""
    random = world.schedule.random
    for _ in range(20):
        await step("lurks", random.choice((0.0, 0.0, 0.0, 0.3)))
        under_way = [task for task in world.actors if task.is_alive() and task.runs]
        if under_way and random.random() < 0.3:
            task = random.choice(under_way)
            world.schedule.say(f"strikes {task.name} in the middle")
            task.is_struck = True
            return


def _strike(world: World, task: Task, *, gone: bool) -> None:
    if gone:
        world.schedule.say(f"takes the thread of {task.name} away")
        task.die()
    else:
        world.schedule.say(f"interrupts {task.name}")
        task.interrupt()


def _id_of(number: int) -> bytes:
    return number.to_bytes(2, "big") + b"\1" * (SEEN_ID_BYTES - 2)


def _number(row_id: bytes) -> int:
    return int.from_bytes(row_id[:2], "big")


def _said(predicate: Predicate) -> str:
    named = {name: value for name, value in predicate._asdict().items() if value is not None}
    return ", ".join(name for name in named) or "everything"
