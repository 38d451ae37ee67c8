import pytest, llmcache
from pydantic import BaseModel
from tests.conftest import MovedClock
pytestmark = pytest.mark.django_db
class Ticket(BaseModel):
    subject: str
def show(title, e):
    print(f"\n===== {title}"); print(e); print(repr(e)[:0])
def test_it(sandbox, clock):
    from llmcache.engine import process
    for t in ("Ada", "Bob", "Eve"): sandbox.answers[t]={"subject":t, "urgent": True, "priority": "low"}
    show("never", llmcache.explain("Ada", Ticket))
    llmcache.extract("Ada", Ticket)
    show("hit", llmcache.explain("Ada", Ticket))
    clock.move(3000)
    show("text", llmcache.explain("Bob", Ticket))
    show("params", llmcache.explain("Ada", Ticket, temperature=0.5, system="You are\nangry", model="openai/gpt-5", tags=["a"], seed=3))
    class Ticket2(BaseModel):
        subject: str
        priority: str = "low"
    Ticket2.__name__="Ticket"
    show("schema", llmcache.explain("Ada", Ticket2))
    show("too old", llmcache.explain("Ada", Ticket, ttl=60))
    made=llmcache.invalidate(kind="Ticket", reason="a new prompt", user="ann")
    clock.move(700)
    show("void", llmcache.explain("Ada", Ticket))
    llmcache.undo(made)
    with llmcache.bypass(): show("bypass", llmcache.explain("Ada", Ticket))
    show("refresh", llmcache.explain("Ada", Ticket, cache="refresh"))
    show("other kind", llmcache.explain("Ada", Ticket, kind="inbox", tenant="acme"))
    clock.move(7*86400)
    show("expired", llmcache.explain("Ada", Ticket))
    show("stale", llmcache.explain("Ada", Ticket, stale_ttl=9e5))
