from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("filtered_websocket", "0001_initial")]

    operations = [
        migrations.AddField(
            model_name="token",
            name="can_call_api",
            field=models.BooleanField(
                default=False,
                help_text="For backends: publish to any group, close any connection.",
                verbose_name="may call the HTTP API",
            ),
        ),
    ]
