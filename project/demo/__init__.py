"""The demo: a log of real requests, run through ``llmcache.extract`` against a provider on loopback.

A run passes ``data`` (the log and the answers to expect), ``providers`` (who is asked), ``replay`` (the threads),
``latencies`` (medians), ``models.DemoRun`` (what is kept of it), ``reports`` (the numbers, as the terminal and the home
page show them) and ``screens`` (the terminal). ``types`` has the response types.
"""
