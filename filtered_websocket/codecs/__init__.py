"""Converts frames to messages and messages to frames."""
