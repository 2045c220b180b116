"""The name that :mod:`filtered_websocket.disconnect` had before; import from there."""

from .disconnect import disconnect_session, disconnect_token, disconnect_user

__all__ = ["disconnect_session", "disconnect_token", "disconnect_user"]
