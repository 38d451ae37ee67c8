"""Entries as JSON lines, so that a team shares a warm cache: written by one project, and read by another without trust.

``lines`` is their form, and ``fields`` reads what a stranger may have written. ``outgoing`` writes what the tiers hold;
``reading`` goes through a file, and ``incoming`` checks each line and keeps its entry.
"""
