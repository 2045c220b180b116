from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("filtered_websocket", "0002_token_can_call_api")]

    operations = [
        migrations.CreateModel(
            name="Console",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
            ],
            options={
                "verbose_name": "live console",
                "verbose_name_plural": "live console",
                "permissions": (
                    ("view_console", "Can see connections, metrics and errors of all processes"),
                    ("tee_console", "Can see the messages of connections and groups"),
                    ("close_console", "Can close connections"),
                    ("unsubscribe_console", "Can take groups away from connections"),
                    ("publish_console", "Can publish to groups"),
                ),
                "managed": False,
                "default_permissions": (),
                "base_manager_name": "objects",
            },
        ),
    ]
