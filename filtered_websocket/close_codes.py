"""
The close codes this package sends, one name and one sentence each.

41xx: reconnect later, with back-off. 42xx: reconnect now. 44xx: do not reconnect without
changing something (the last two digits mirror HTTP's 4xx). 45xx: an error of the server.
"""

#: This process has reached ``MAX_CONNECTIONS``.
OVER_CAPACITY = 4100
#: The client reads too slowly: more than ``MAX_OUTBOX`` bytes wait for it.
SLOW_READER = 4101
#: A rate limit, or the limit of connections per user or address.
TOO_MANY = 4102
#: The server shuts down or limits the age of connections: connect again, now.
RESTART = 4200
#: The client stopped answering pings.
NO_PONG = 4201
#: Messages were lost and cannot be sent again.
RESYNC = 4202
#: The session has another key now, as after a change of the own password.
SESSION_RENEWED = 4203
#: A frame that the codec refuses, as :class:`~.codecs.json.JSONCodec` does.
BAD_MESSAGE = 4400
#: The credential is missing, not valid, or no longer valid.
UNAUTHORIZED = 4401
#: Not allowed: this origin, host, group or action.
FORBIDDEN = 4403
#: Reserved.
AUTH_TIMEOUT = 4408
#: A message over ``MAX_MESSAGE_SIZE``.
TOO_LARGE = 4413
#: A filter raised: while connecting, or later with ``ON_ERROR = "close"``.
FILTER_ERROR = 4500
