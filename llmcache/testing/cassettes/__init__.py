"""Cassettes: what a provider answered once, recorded as JSON that a person can review, and played back in tests.

cassette      the ``with`` block, decorator and fixture: who plays, who records, what is wrong at the end
modes         whether anything is recorded, and that nothing is where ``CI`` is set
places        in which file
tape          what runs while a test does: what is asked is played, or recorded
attempts      one attempt, played or recorded
requests      a request as it is recorded and found again: without secrets, images by digest
cleaning      texts as they may be recorded, wherever they are
replies       replies and failures as JSON, and back
merging       what a file says after a recording
interactions  the file: read with suspicion, written so that diffs are small
outcomes      whether the test has failed, which ends its cassette as if nothing had happened
layout        JSON text: of a file, and of an answer exactly as the model wrote it
differences   in what a request differs from the nearest one that is recorded
errors        what can be wrong
"""
