"""Pictures of every stage, as deterministic PNG bytes made from plain arrays and dictionaries.

Every function returns ``bytes``; the caller writes them where it wants. Colours are safe for
colour-blind readers (blue, orange, magenta against green, cividis), axes carry units, and no
picture contains a date, a host or a path, so that equal input gives equal bytes.
"""
