"""What a call is about, where that is more than one text: parts (text, images, files) and lists of messages.

parts          what callers make: ``Image`` and ``File``
own            a content as it is at the call, for who answers it later
sources        the bytes of these, read once and never more than are allowed
media_types    of which type bytes are
reading        from what a caller has passed to a text or a ``Content``
messages       ``Content``: what of it is in the key, what is sent, what is kept
"""
