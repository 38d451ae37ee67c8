"""The ledger's rows in an admin site: read, searched and exported, never changed.

lists         what all of them share: nothing is changed, and a page costs a fixed number of bounded queries
counting      how many rows there are, without counting them all
filters       filters whose choices are read from the sums, never from the rows
columns       cells of lists and facts of pages
entries       cache entries, put together of those that follow
entry_list    their list and its search
entry_page    the page of one
entry_places  where it lies now, in words
entry_contents  what it holds, once revealed
entry_export  exporting them
buttons       the row of buttons on the page of one
entry_actions  what can be done with them: invalidate, refresh, set the TTL
entry_changes  how that is done to one after the other, and told
action_forms  what is asked before
correcting    correcting, pinning and holding back one answer, from its page
correction_form  the form, and how what does not pass is told
corrections   what people have answered: the list, and withdrawing
entry_explain  why a request missed: beside the entry that is nearest to it
explained     the same in words
whereabouts   where an entry lies now, asked of every tier within a deadline
validity      which entries the invalidation log makes void
contents      the answer and the request of an entry, and as text to read
exports       entries as JSON lines, as a stream
calls         provider calls
sums          hours of usage and days of tenants
invalidations what was invalidated: the list, undoing, and the form that invalidates
invalidation_form  its fields, and what is refused
warming_plans  what is kept warm: the list, the form, run now and dry run
warming_plan_form  its fields, and what is refused
warming_runs  runs of warming: how far, what it costs, what it was worth; pause, resume, cancel
schemas       schema versions and what has changed between them
deploys       what the last deploys have changed, and what is left behind
"""
