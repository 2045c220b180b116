"""
The close codes this package sends, one name and one sentence each.

41xx: come back later, with back-off. 42xx: come back now. 44xx: do not come back
unchanged (they mirror HTTP). 45xx: our fault.
"""

#: This process has all the connections it may have.
OVER_CAPACITY = 4100
#: The client read so slowly that its unsent bytes passed their bound.
SLOW_READER = 4101
#: A rate or a per-user or per-address limit.
TOO_MANY = 4102
#: The server drains; another one is ready.
RESTART = 4200
#: The client stopped answering pings.
NO_PONG = 4201
#: Messages were lost that cannot be fetched again.
RESYNC = 4202
#: A frame that does not decode, where the pipeline says so.
BAD_MESSAGE = 4400
#: No right to connect, or no longer.
UNAUTHORIZED = 4401
#: Known, but not allowed this.
FORBIDDEN = 4403
#: Reserved.
AUTH_TIMEOUT = 4408
#: A message over ``MAX_MESSAGE_SIZE``.
TOO_LARGE = 4413
#: A filter raised, where the site chose ``ON_ERROR = "close"``.
FILTER_ERROR = 4500
