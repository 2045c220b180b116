"""Who depends on what: auth.dependencies."""

import pytest

from filtered_websocket.auth.dependencies import Dependents

KEY = "session", "one"


def test_who_depends_on_something_is_known_until_nobody_does():
    dependents = Dependents()
    for name in ("ann", "ann", "bob", "cy"):
        dependents.hold(KEY, name)
    assert set(dependents[KEY]) == {"ann", "bob", "cy"}
    dependents.drop(KEY, "bob")
    dependents.drop(KEY, "ann")
    assert set(dependents[KEY]) == {"cy"}
    dependents.drop(KEY, "cy")
    assert dependents == {}
    with pytest.raises(KeyError):
        dependents.drop(KEY, "cy")


def test_one_connection_takes_no_set():
    dependents = Dependents()
    dependents.hold(KEY, "ann")
    dependents.drop(KEY, "bob")
    assert dependents[KEY] == ("ann",)
    dependents.drop(KEY, "ann")
    assert dependents == {}
