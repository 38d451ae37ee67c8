"""Many calls as one: the keys read together, equal ones asked once.

batch    the doors, and what they return
samples  the doors for several answers to one request: a batch of its variants
items    the items one by one, each with its text and the options that are its own
hits     five hundred items looked for at a time
work     the others asked, a few at once
"""
