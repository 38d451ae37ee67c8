"""A value while its answer is being written.

streaming  the doors, which read what a call says before its stream begins
work       the call in the background, and the values that are made of what it tells
partials   where a text is cut, and what its beginning means for a type
shapes     what a type is made of: its fields, its places, which of a union's types it can only be
"""
