"""HTTP streams and server-sent events, for networks that let no WebSocket through."""
