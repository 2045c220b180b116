import django.core.validators
from django.db import migrations, models

import filtered_websocket.models.pusher


class Migration(migrations.Migration):
    dependencies = [
        ("filtered_websocket", "0003_console"),
    ]

    operations = [
        migrations.CreateModel(
            name="PusherApp",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=100, verbose_name="name")),
                (
                    "app_id",
                    models.CharField(
                        default=filtered_websocket.models.pusher.new_app_id,
                        max_length=20,
                        unique=True,
                        validators=[filtered_websocket.models.pusher.check_app_id],
                        verbose_name="app id",
                    ),
                ),
                (
                    "key",
                    models.CharField(
                        default=filtered_websocket.models.pusher.new_app_key,
                        help_text="No secret: every client has it.",
                        max_length=64,
                        unique=True,
                        validators=[filtered_websocket.models.pusher.check_app_key],
                        verbose_name="key",
                    ),
                ),
                (
                    "enabled",
                    models.BooleanField(
                        default=True,
                        help_text="Otherwise its clients and backends are refused.",
                        verbose_name="enabled",
                    ),
                ),
                (
                    "client_events",
                    models.BooleanField(
                        default=False,
                        help_text="Clients may send to one another.",
                        verbose_name="client events",
                    ),
                ),
                (
                    "client_event_rate",
                    models.CharField(
                        default="10/s",
                        help_text="How many client events one connection may send.",
                        max_length=20,
                        validators=[filtered_websocket.models.pusher.check_rate],
                        verbose_name="client event rate",
                    ),
                ),
                (
                    "max_event_size",
                    models.PositiveIntegerField(
                        default=10240,
                        validators=[django.core.validators.MinValueValidator(1)],
                        verbose_name="longest data of an event, in bytes",
                    ),
                ),
                (
                    "max_connections",
                    models.PositiveIntegerField(
                        blank=True,
                        default=None,
                        help_text="Empty: as many as the site allows.",
                        null=True,
                        validators=[django.core.validators.MinValueValidator(1)],
                        verbose_name="most connections of each process",
                    ),
                ),
                (
                    "max_members",
                    models.PositiveIntegerField(
                        default=100,
                        validators=[django.core.validators.MinValueValidator(1)],
                        verbose_name="most users of a presence channel",
                    ),
                ),
                (
                    "allowed_origins",
                    models.TextField(
                        blank=True,
                        help_text="One in each line. Empty: all that the site lets in.",
                        validators=[filtered_websocket.models.pusher.check_origins],
                        verbose_name="allowed origins",
                    ),
                ),
                ("tls_only", models.BooleanField(default=False, verbose_name="TLS only")),
                (
                    "activity_timeout",
                    models.PositiveIntegerField(
                        default=30,
                        help_text="Seconds after which an idle client pings.",
                        validators=[django.core.validators.MinValueValidator(1)],
                        verbose_name="activity timeout",
                    ),
                ),
                (
                    "webhooks",
                    models.JSONField(
                        blank=True,
                        default=list,
                        help_text="Who is told what happens, as WEBHOOKS in the settings.",
                        validators=[filtered_websocket.models.pusher.check_webhooks],
                        verbose_name="webhooks",
                    ),
                ),
                ("created", models.DateTimeField(auto_now_add=True, verbose_name="created")),
                ("encrypted_secret", models.TextField(editable=False)),
            ],
            options={
                "verbose_name": "Pusher app",
                "verbose_name_plural": "Pusher apps",
                "ordering": ("name", "pk"),
            },
        ),
    ]
