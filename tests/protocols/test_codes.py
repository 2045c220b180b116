"""Our close codes as the Centrifuge clients are told them."""

import pytest

from filtered_websocket import close_codes
from filtered_websocket.protocols.codes import ReplyError, translate


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        *[(4100, 4100), (4101, 3008), (4102, 3013), (4201, 3012), (4200, 3001), (4202, 3010)],
        *[(4400, 3501), (4413, 3501), (4401, 3500), (4403, 3507), (4500, 3004)],
        *[(4999, 4999), (3501, 3501), (1000, 1000)],
    ],
)
def test_a_close_code_is_translated(ours, theirs):
    assert translate(ours, "why") == (theirs, "why")


def test_a_close_without_a_reason_gets_the_word_of_the_protocol():
    assert translate(close_codes.RESTART, "") == (3001, "shutdown")


def test_only_temporary_errors_say_so():
    assert ReplyError(100).fields["temporary"] is True
    assert ReplyError(103).fields == {"code": 103, "message": "permission denied"}
