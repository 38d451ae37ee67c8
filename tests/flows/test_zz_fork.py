import sys,time,threading
sys.path.insert(0,"/work/main")
import pytest
from tests.flows.test_async_process import *
def test_x(sandbox):
    t=time.monotonic()
    def p(*a): print(round(time.monotonic()-t,1),*a, file=sys.__stderr__, flush=True)
    with working("fork") as worker:
        p(worker.hear()); sandbox.hold(); sandbox.wait_until_received(2); worker.tell()
        p(worker.hear()); sandbox.release()
        for _ in range(4): p(worker.hear())
        p(worker.end())
