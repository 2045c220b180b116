"""``manage.py groups``: the group rules, written as one would type them."""

from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError

from ...checks.application import load_application
from ...groups import GroupRule
from ...pipelines.permissions import describe_allowed
from ...pipelines.route import known_routes
from ...pipelines.rules import Rules


class Command(BaseCommand):
    help = "Prints the group rules of every WebSocket route, in the order in which they are tried."

    def handle(self, *args: Any, **options: Any) -> None:
        by_rules: dict[Rules, list[str]] = {}
        try:
            load_application()
            for route in known_routes():
                rules = route.pipeline.rules
                served = (route.paths or not route.is_offered) and not route.is_own
                if rules is not None and served:
                    by_rules.setdefault(rules, []).extend(route.paths)
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error
        if not by_rules:
            raise CommandError(
                "no group rules: name a module with a list grouppatterns in"
                " FILTERED_WEBSOCKET['GROUPS']; without, clients join what filters join"
            )
        # First what is served. Which module is imported first is chance: checks have no order.
        for rules, paths in sorted(by_rules.items(), key=lambda item: not item[1]):
            self.stdout.write(", ".join(dict.fromkeys(paths)) or rules.source)
            for rule in rules:
                self.stdout.write(f"  {line_of(rule)}")


def line_of(rule: GroupRule) -> str:
    """A rule with every argument that differs from its default."""
    default = GroupRule(pattern=rule.pattern)
    parts = [] if rule.pattern is None else [repr(rule.pattern)]
    for name in ("join", "publish", "see"):
        value = getattr(rule, name)
        hidden = rule.pattern is None and name == "see" and value is False
        if value != getattr(default, name) and not hidden:
            parts.append(f"{name}={describe_allowed(value)}")
    for name in ("presence", "join_leave", "history", "latest", "recheck", "binary"):
        value = getattr(rule, name)
        if value != getattr(default, name):
            parts.append(f"{name}={value!r}")
    return f"{'personal' if rule.pattern is None else 'group'}({', '.join(parts)})"
