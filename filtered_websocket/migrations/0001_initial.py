import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

import filtered_websocket.models


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="Ticket",
            fields=[
                ("digest", models.CharField(max_length=64, primary_key=True, serialize=False)),
                ("session_key", models.TextField()),
                ("session_hash", models.CharField(max_length=128)),
                ("expires_at", models.DateTimeField(db_index=True)),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="Token",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=100, verbose_name="name")),
                (
                    "group",
                    models.CharField(
                        blank=True,
                        help_text="Shared by the tokens that name it; empty: one of its own.",
                        max_length=1024,
                        validators=[filtered_websocket.models.check_group_name],
                        verbose_name="broadcast group",
                    ),
                ),
                ("can_publish", models.BooleanField(default=True, verbose_name="may publish")),
                ("can_subscribe", models.BooleanField(default=True, verbose_name="may subscribe")),
                (
                    "expires_at",
                    models.DateTimeField(blank=True, null=True, verbose_name="expires at"),
                ),
                ("created", models.DateTimeField(auto_now_add=True, verbose_name="created")),
                (
                    "last_used",
                    models.DateTimeField(editable=False, null=True, verbose_name="last used"),
                ),
                (
                    "revoked_at",
                    models.DateTimeField(editable=False, null=True, verbose_name="revoked at"),
                ),
                (
                    "prefix",
                    models.CharField(
                        db_index=True,
                        editable=False,
                        max_length=12,
                        verbose_name="key begins with",
                    ),
                ),
                ("digest", models.CharField(editable=False, max_length=64, unique=True)),
                (
                    "user",
                    models.ForeignKey(
                        blank=True,
                        help_text="Connections with this token are this user's.",
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="user",
                    ),
                ),
            ],
            options={
                "verbose_name": "token",
                "verbose_name_plural": "tokens",
                "ordering": ("-created", "-pk"),
            },
        ),
    ]
