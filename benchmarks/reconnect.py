"""The rule of reconnect.js for clients in Python, by the constants of that file."""

import re
from pathlib import Path

import filtered_websocket

SCRIPT = Path(filtered_websocket.__file__).parent / "static" / "filtered_websocket" / "reconnect.js"
#: Milliseconds.
CONSTANTS = {
    name: int(value.replace("_", ""))
    for name, value in re.findall(r"^  static ([A-Z]+) = ([\d_]+);$", SCRIPT.read_text(), re.M)
}


def delay_after(code: int, waited: float, chance: float) -> float | None:
    """
    Milliseconds until a client comes back that has waited so many before; ``chance`` is from
    0 to 1. None for never.
    """
    if code == 1000 or 4400 <= code <= 4499:
        return None
    if not waited:
        return chance * CONSTANTS["SOON" if 4200 <= code <= 4299 else "BASE"]
    return (1 + chance) * min(CONSTANTS["CAP"], max(CONSTANTS["BASE"], waited)) / 2
