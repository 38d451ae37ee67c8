import subprocess, sys
from tests.flows.test_ledger_process import *
def test_mp(workers, sandbox):
    print(subprocess.run([sys.executable, "/tmp/w/lt/mp.py"], env={**child_environment(LLMCACHE_TESTS_VAR=str(workers.var)), "PYTHONPATH": str(ROOT)}, cwd=ROOT, text=True, capture_output=True, timeout=60))
    assert 0
def test_rot(workers, sandbox):
    worker = workers.start("load", "4", "60", "4000", "0.005")
    worker.hear(); print(worker.end())
    for p in journal_files():
        print(p, p.stat().st_size, p.read_text()[-1500:])
    print(len(rows(workers.var)))
    assert 0
