"""Calls, invalidations and faults in an order that a number decides: the policy's third port.

The decisions are made by the real code: the policy, flights, the log and its copies, tiers and envelopes. What takes
time is simulated, and each step of it lets the schedule go on with whom it likes.
``python -m tests.simulator 17`` shows the steps of schedule 17.

- ``schedule``: who goes on, and what time it is.
- ``places``: the log's table, the board, a tier that processes share.
- ``leases``: leases in that tier, which may stand still, forget everything, and do late what it was told.
- ``oracle``: what was asked and invalidated when, and which answers must not be.
- ``port``: one simulated process, and its calls' port.
- ``actors``: who calls, who invalidates, who undoes, and what goes wrong: with callers, processes and the store.
- ``world``: all of them, made of one number.
- ``mutants``: what must not pass.
- ``chunks``: many schedules, and what is said of those that fail.
"""
