"""What ``tests/flushing.py`` promises: each test begins with what the migrations have made."""

import pytest
from django.contrib.auth.models import Permission, User
from django.contrib.contenttypes.models import ContentType
from django.core.management import call_command

from .flushing import KEPT

pytestmark = pytest.mark.django_db(transaction=True)


def rows():
    return {model: list(model.objects.order_by("pk").values()) for model in KEPT}


def flush():
    call_command("flush", verbosity=0, interactive=False)


def test_what_the_migrations_made_is_left_and_nothing_else():
    before = rows()
    kind = ContentType.objects.create(app_label="board", model="board")
    view = Permission.objects.create(codename="view_board", content_type=kind, name="view")
    User.objects.create_user("ann").user_permissions.add(view)
    flush()
    assert rows() == before and all(before.values())
    assert not User.objects.exists()


def test_what_a_test_deletes_is_made_again():
    before = rows()
    view = Permission.objects.get(codename="view_console")
    Permission.objects.filter(pk=view.pk).delete()
    flush()
    again = Permission.objects.filter(codename="view_console")
    assert again.get().name == view.name
    # As it was for the tests that follow: otherwise it would be made again after each.
    again.update(id=view.pk)
    assert rows() == before
