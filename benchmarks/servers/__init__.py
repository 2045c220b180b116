"""
What each contender serves: the smallest program its documentation would have you write.

All of them understand three kinds of path: ``/fan/<group>/`` sends a message to every
other member of the group, ``/self/<group>/`` to its sender too, ``/echo/`` back.
"""
