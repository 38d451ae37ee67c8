"""What a run has spent and saved; runs of before have no such figures."""

from typing import ClassVar

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies: ClassVar = [("demo", "0001_initial")]

    operations: ClassVar = [
        migrations.AddField("demorun", "spent_pico_usd", models.BigIntegerField(null=True)),
        migrations.AddField("demorun", "saved_pico_usd", models.BigIntegerField(null=True)),
        migrations.AddField("demorun", "saved_unknown", models.IntegerField(null=True)),
        migrations.AddField("demorun", "calls_in_doubt", models.IntegerField(null=True)),
        migrations.AddField("demorun", "in_doubt_pico_usd", models.BigIntegerField(null=True)),
        migrations.AddField("demorun", "calls_unpriced", models.IntegerField(null=True)),
    ]
