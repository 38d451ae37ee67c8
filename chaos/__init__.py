"""How long an answer is still served after it was invalidated, measured over real processes, servers and a provider.

`staleness` says from times alone how stale each read was, `worker` is a process that reads or invalidates, `arms` are
the places and faults under which they do so, `drawing` is the picture. `flights` is about something else: how often the
provider is asked. Everything lies in a folder that is gone afterwards; only reports and pictures stay, in ``var``.
"""
