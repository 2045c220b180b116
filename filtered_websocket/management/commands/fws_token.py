"""
``manage.py fws_token``: create, list, rotate and revoke tokens.

Standard output has only the key or the list; messages go to standard error.
"""

import datetime
import re
from collections.abc import Callable
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import OperationalError, ProgrammingError, router, transaction
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from ...auth.keys import Key, shorten
from ...conf import conf
from ...filters.base import printable
from ...models import Token
from ...publish import is_shared

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
#: The two ways that clients can send a key.
USE = (
    "clients send it as a header, 'Authorization: Token KEY', or in JavaScript:"
    ' new WebSocket(url, ["fws", "fws.token.KEY"])'
)
HEADINGS = ("ID", "KEY", "NAME", "USER", "GROUP", "STATE", "EXPIRES", "LAST USED")


class Command(BaseCommand):
    help = "Creates, lists, rotates and revokes the tokens that WebSocket clients connect with."
    # Revoking a token must work even if a check fails.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        create = actions.add_parser("create", help="create a token and print its key")
        create.add_argument("--name", required=True, help="what it is for")
        create.add_argument("--user", help="connections with it are this user's")
        create.add_argument(
            "--group", default="", help="its broadcast group (default: a group of its own)"
        )
        create.add_argument("--expires-in", metavar="TIME", help="30s, 15m, 12h, 30d or 2w")
        create.add_argument("--no-publish", action="store_true", help="it may not publish")
        create.add_argument("--no-subscribe", action="store_true", help="it may not subscribe")
        create.add_argument("--api", action="store_true", help="it may call the HTTP API")
        actions.add_parser("list", help="print all tokens")
        for action, text in (
            ("rotate", "replace the key of a token and print the new one"),
            ("revoke", "make a token invalid for ever"),
        ):
            chosen = actions.add_parser(action, help=text)
            chosen.add_argument(
                "token", help="its id, or at least the first 8 characters of its key"
            )

    def run_from_argv(self, argv: list[str]) -> None:
        # Only the first characters of a key are needed, and an error must not repeat all of it.
        super().run_from_argv([shorten(argument) for argument in argv])

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        actions: dict[str, Callable[..., None]] = {
            "create": self._create,
            "list": self._list,
            "rotate": self._rotate,
            "revoke": self._revoke,
        }
        try:
            actions[action](**options)
        except (OperationalError, ProgrammingError) as error:
            # From what it came: their frames hide the key.
            raise CommandError(
                f"the database says: {printable(error)}. If it has no tables yet, run"
                " 'manage.py migrate'"
            ) from error

    @sensitive_variables("key")
    def _create(
        self,
        *,
        name: str,
        user: str | None,
        group: str,
        expires_in: str | None,
        no_publish: bool,
        no_subscribe: bool,
        api: bool,
        **options: Any,
    ) -> None:
        fields = {
            "name": name,
            "user": None if user is None else _user_named(user),
            "group": group,
            "can_publish": not no_publish,
            "can_subscribe": not no_subscribe,
            "can_call_api": api,
            "expires_at": None if expires_in is None else _moment_in(expires_in),
        }
        with transaction.atomic(using=router.db_for_write(Token)):
            try:
                token, key = Token.objects.create_key(**fields)
            except ValidationError as error:
                raise CommandError(_as_text(error)) from None
            self._print_key(key)
        self._tell(f"created token {token.pk}, {token}: its key is not shown again")
        self._tell(USE)

    def _list(self, **options: Any) -> None:
        rows = [HEADINGS, *map(_row, Token.objects.select_related("user"))]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            self.stdout.write("  ".join(cells).rstrip())

    @sensitive_variables("key")
    def _rotate(self, *, token: str, **options: Any) -> None:
        found = _token_named(token)
        with transaction.atomic(using=router.db_for_write(Token)):
            try:
                key = found.rotate()
            except ValueError as error:
                raise CommandError(printable(error)) from None
            self._print_key(key)
        self._tell(f"rotated token {found.pk}, {found}: its key is not shown again")
        self._warn_if_not_shared()

    def _revoke(self, *, token: str, **options: Any) -> None:
        found = _token_named(token)
        found.revoke()
        self._tell(f"revoked token {found.pk}, {found}")
        self._warn_if_not_shared()

    @sensitive_variables()
    def _print_key(self, key: Key) -> None:
        """If printing fails, nobody has the key: the exception undoes the transaction."""
        self.stdout.write(key)
        self.stdout.flush()

    def _warn_if_not_shared(self) -> None:
        if not is_shared():
            self._tell(
                "no channel layer reaches other processes: connections with the old key are closed"
                f" within RECHECK ({conf.RECHECK:g} s)"
            )

    def _tell(self, text: str) -> None:
        # Without str as its style, Django prints it in red, as an error.
        self.stderr.write(printable(text), str)


def _user_named(name: str) -> Any:
    users = get_user_model()
    try:
        return users._default_manager.get(**{users.USERNAME_FIELD: name})
    except users.DoesNotExist:
        raise CommandError(
            f"--user {name!r}: there is no such user; give the {users.USERNAME_FIELD}"
        ) from None


def _moment_in(text: str) -> datetime.datetime:
    match = re.fullmatch(r"0*([1-9][0-9]{0,8})([smhdw])", text)
    try:
        if match:
            return timezone.now() + datetime.timedelta(**{UNITS[match[2]]: int(match[1])})
        why = "not a time from now"
    except OverflowError:
        why = "later than any date"
    raise CommandError(f"--expires-in {text!r} is {why}: write 30s, 15m, 12h, 30d or 2w")


def _token_named(name: str) -> Token:
    try:
        return Token.objects.named(name)
    except ValueError as error:
        raise CommandError(f"{error}: 'fws_token list' shows them") from None


def _as_text(error: ValidationError) -> str:
    """Errors of fields as one line that names the options."""
    return "; ".join(
        f"--{field}: {' '.join(messages)}" for field, messages in error.message_dict.items()
    )


def _row(token: Token) -> tuple[str, ...]:
    return (
        str(token.pk),
        token.prefix,
        printable(token.name),
        "-" if token.user is None else printable(token.user.get_username()),
        printable(token.group) or "-",
        token.state.value,
        _moment(token.expires_at),
        _moment(token.last_used),
    )


def _moment(moment: datetime.datetime | None) -> str:
    if moment is None:
        return "never"
    return moment.astimezone(timezone.get_current_timezone()).isoformat(" ", "minutes")
