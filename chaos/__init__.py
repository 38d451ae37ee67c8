"""How long an answer is still served after it was invalidated, measured over real processes, servers and a provider.

`staleness` says from times alone how stale each read was, `worker` is a process that reads or invalidates, `arms` are
the places and faults under which they do so, `drawing` is the picture. Everything lies in a folder that is gone
afterwards; only the report and the picture stay, in ``var``.
"""
