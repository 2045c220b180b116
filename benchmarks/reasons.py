"""
Why a bound is missed that the last run on record missed, by the words of its claim or curve.

Written by hand: whoever commits figures that miss a bound says here what it would take, and
runs ``python -m benchmarks --report``.
"""

REASONS: dict[str, str] = {}
