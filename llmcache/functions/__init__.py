"""A function's own values, kept as a provider's answers are.

decorators   ``@cached``, and calls that memory answers
definitions  what the definition of a function says
calls        all other calls, with the function in a provider's place
arguments    the arguments as the content of a key
round_trip   whether a value comes back as it was
"""
