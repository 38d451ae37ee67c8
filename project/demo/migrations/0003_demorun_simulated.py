"""The made-up time that a run was recorded at; runs of before were recorded at the real one."""

from typing import ClassVar

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies: ClassVar = [("demo", "0002_demorun_money")]

    operations: ClassVar = [
        migrations.AddField("demorun", "simulated_from", models.DateTimeField(null=True)),
        migrations.AddField("demorun", "simulated_until", models.DateTimeField(null=True)),
    ]
