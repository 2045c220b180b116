"""
``manage.py fws_token``: create, list, rotate and revoke tokens.

Standard output has what was asked for, a key or the list; words go to standard error.
"""

import datetime
import re
from collections.abc import Callable
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import router, transaction
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from ...auth.keys import Key, shorten
from ...conf import conf
from ...filters.base import printable
from ...models import Token
from ...publish import is_shared

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
HEADINGS = ("ID", "KEY", "NAME", "USER", "GROUP", "STATE", "EXPIRES", "LAST USED")


class Command(BaseCommand):
    help = "Creates, lists, rotates and revokes the tokens that WebSocket clients connect with."
    # A token can be revoked whatever is wrong with the site.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        create = actions.add_parser("create", help="print the key of a new token")
        create.add_argument("--name", required=True, help="what it is for")
        create.add_argument("--user", help="connections with it are this user's")
        create.add_argument(
            "--group", default="", help="its broadcast group, if not one of its own"
        )
        create.add_argument("--expires-in", metavar="TIME", help="30s, 15m, 12h, 30d or 2w")
        create.add_argument("--no-publish", action="store_true", help="it may not publish")
        create.add_argument("--no-subscribe", action="store_true", help="it may not subscribe")
        actions.add_parser("list", help="print all tokens")
        for action, text in (
            ("rotate", "print a new key in the place of the old one"),
            ("revoke", "end a token for good"),
        ):
            chosen = actions.add_parser(action, help=text)
            chosen.add_argument("token", help="its id, or 8 characters or more its key begins with")

    def run_from_argv(self, argv: list[str]) -> None:
        # A whole key is never needed, and must not come back in an error.
        super().run_from_argv([shorten(argument) for argument in argv])

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        actions: dict[str, Callable[..., None]] = {
            "create": self._create,
            "list": self._list,
            "rotate": self._rotate,
            "revoke": self._revoke,
        }
        actions[action](**options)

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
        **options: Any,
    ) -> None:
        fields = {
            "name": name,
            "user": None if user is None else _user_named(user),
            "group": group,
            "can_publish": not no_publish,
            "can_subscribe": not no_subscribe,
            "expires_at": None if expires_in is None else _moment_in(expires_in),
        }
        with transaction.atomic(using=router.db_for_write(Token)):
            try:
                token, key = Token.objects.create_key(**fields)
            except ValidationError as error:
                raise CommandError(_in_words(error)) from None
            self._print_key(key)
        self._tell(f"created token {token.pk}, {token}: its key is not shown again")

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
        self._tell_who_hears()

    def _revoke(self, *, token: str, **options: Any) -> None:
        found = _token_named(token)
        found.revoke()
        self._tell(f"revoked token {found.pk}, {found}")
        self._tell_who_hears()

    @sensitive_variables()
    def _print_key(self, key: Key) -> None:
        """Where it cannot be printed nobody has it: the transaction is undone."""
        self.stdout.write(key)
        self.stdout.flush()

    def _tell_who_hears(self) -> None:
        if not is_shared():
            self._tell(
                "no channel layer reaches other processes: connections with the old key end"
                f" within RECHECK ({conf.RECHECK:g} s)"
            )

    def _tell(self, text: str) -> None:
        # Django's style for standard error is that of errors.
        self.stderr.write(printable(text), str)


def _user_named(name: str) -> Any:
    users = get_user_model()
    try:
        return users._default_manager.get(**{users.USERNAME_FIELD: name})
    except users.DoesNotExist:
        raise CommandError(
            f"--user {name!r}: there is no such user; it is the {users.USERNAME_FIELD} that counts"
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


def _in_words(error: ValidationError) -> str:
    """What fields may not hold, as one line that names their options."""
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
