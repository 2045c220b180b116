"""Log lines that would come in a flood."""

import time
from collections import Counter

#: One line per subject in this many seconds.
EVERY = 10.0
#: How many subjects are told apart; then all are forgotten, and may be logged again.
MAX_SUBJECTS = 1024


class Seldom:
    """Counts what happens to a subject, and says when to log it."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._logged: dict[str, float] = {}

    def note(self, subject: str, count: int = 1) -> bool:
        """Count; whether the subject's last line is old enough for another."""
        self.counts[subject] += count
        now = time.monotonic()
        if now - self._logged.get(subject, -EVERY) < EVERY:
            return False
        if len(self._logged) >= MAX_SUBJECTS:
            self._logged.clear()
        self._logged[subject] = now
        return True
