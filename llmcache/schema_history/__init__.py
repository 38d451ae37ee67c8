"""What response types looked like, and what a change of them leaves behind.

versions  the forms that were asked for, as rows
changes   in what two forms differ
reports   the entries of each form, and what they cost to make anew
prompts   the same of system prompts and versions, of which there are hashes alone
"""
