from itertools import islice

import django.db.models.deletion
from django.db import migrations, models


def reckon_saved(apps, editor):
    """Give entries from before what their hits have saved: what is known of it, by their present cost."""
    entries = apps.get_model("llmcache", "CacheEntry").objects.using(editor.connection.alias)
    entries.filter(hits__gt=0, cost_pico_usd__isnull=False).update(
        saved_pico_usd=models.F("hits") * models.F("cost_pico_usd")
    )


def write_tags(apps, editor):
    """Give entries from before the rows by which they are found by a tag."""
    using = editor.connection.alias
    entries = apps.get_model("llmcache", "CacheEntry").objects.using(using)
    rows = apps.get_model("llmcache", "EntryTag")
    made = (
        rows(entry_id=pk, tag=tag)
        for pk, tags in entries.exclude(tags=[]).values_list("pk", "tags").iterator()
        for tag in sorted(set(tags))
    )
    while part := list(islice(made, 1_000)):
        rows.objects.using(using).bulk_create(part, ignore_conflicts=True)


class Migration(migrations.Migration):
    dependencies = [
        ("llmcache", "0001_initial"),
    ]

    operations = [
        migrations.CreateModel(
            name="EntryTag",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("tag", models.CharField(max_length=200, verbose_name="tag")),
            ],
            options={
                "verbose_name": "tag of an entry",
                "verbose_name_plural": "tags of entries",
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="SchemaVersion",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("response_type", models.CharField(max_length=200, verbose_name="response type")),
                ("fingerprint", models.CharField(max_length=64, verbose_name="fingerprint")),
                ("schema", models.TextField(verbose_name="JSON schema")),
                ("first_seen_at", models.DateTimeField(verbose_name="first seen at")),
                ("last_seen_at", models.DateTimeField(verbose_name="last seen at")),
                ("changes", models.JSONField(default=list, verbose_name="changes since the one before")),
            ],
            options={
                "verbose_name": "schema version",
                "verbose_name_plural": "schema versions",
                "ordering": ["-last_seen_at", "-pk"],
                "default_permissions": ("view",),
            },
        ),
        migrations.AlterModelOptions(
            name="cacheentry",
            options={
                "default_permissions": ("view",),
                "ordering": ["-written_at", "-pk"],
                "permissions": [
                    ("reveal_cacheentry", "Can see the answers and requests of cache entries"),
                    ("export_cacheentry", "Can export cache entries"),
                ],
                "verbose_name": "cache entry",
                "verbose_name_plural": "cache entries",
            },
        ),
        migrations.AlterModelOptions(
            name="providercall",
            options={
                "default_permissions": ("view",),
                "ordering": ["-started_at", "-pk"],
                "verbose_name": "provider call",
                "verbose_name_plural": "provider calls",
            },
        ),
        migrations.AlterModelOptions(
            name="tenantday",
            options={
                "default_permissions": ("view",),
                "ordering": ["-day", "tenant", "outcome"],
                "verbose_name": "day of a tenant",
                "verbose_name_plural": "days of tenants",
            },
        ),
        migrations.AlterModelOptions(
            name="usagebucket",
            options={
                "default_permissions": ("view",),
                "ordering": ["-hour", "kind", "model", "tier", "outcome"],
                "permissions": [("view_dashboard", "Can see the dashboard")],
                "verbose_name": "hour of usage",
                "verbose_name_plural": "hours of usage",
            },
        ),
        migrations.RemoveConstraint(
            model_name="cacheentry",
            name="llmcache_entry_key",
        ),
        migrations.RemoveConstraint(
            model_name="tenantday",
            name="llmcache_tenant_day",
        ),
        migrations.RemoveConstraint(
            model_name="usagebucket",
            name="llmcache_bucket",
        ),
        migrations.AddField(
            model_name="cacheentry",
            name="saved_pico_usd",
            field=models.BigIntegerField(default=0, verbose_name="saved in 10⁻¹² US dollars"),
        ),
        migrations.AddField(
            model_name="cacheentry",
            name="simulated",
            field=models.BooleanField(default=False, verbose_name="recorded on a simulated clock"),
        ),
        migrations.AddField(
            model_name="providercall",
            name="simulated",
            field=models.BooleanField(default=False, verbose_name="recorded on a simulated clock"),
        ),
        migrations.AddField(
            model_name="tenantday",
            name="simulated",
            field=models.BooleanField(default=False, verbose_name="recorded on a simulated clock"),
        ),
        migrations.AddField(
            model_name="usagebucket",
            name="simulated",
            field=models.BooleanField(default=False, verbose_name="recorded on a simulated clock"),
        ),
        migrations.AddIndex(
            model_name="cacheentry",
            index=models.Index(fields=["-saved_pico_usd"], name="llmcache_entry_saved"),
        ),
        migrations.AddIndex(
            model_name="cacheentry",
            index=models.Index(fields=["kind", "-saved_pico_usd"], name="llmcache_entry_kind_saved"),
        ),
        migrations.AddIndex(
            model_name="cacheentry",
            index=models.Index(fields=["expires_at"], name="llmcache_entry_expires"),
        ),
        migrations.AddConstraint(
            model_name="cacheentry",
            constraint=models.UniqueConstraint(fields=("key", "namespace"), name="llmcache_entry_of_key"),
        ),
        migrations.AddConstraint(
            model_name="tenantday",
            constraint=models.UniqueConstraint(
                fields=("day", "tenant", "outcome", "simulated"), name="llmcache_tenant_day_of"
            ),
        ),
        migrations.AddConstraint(
            model_name="usagebucket",
            constraint=models.UniqueConstraint(
                fields=("hour", "kind", "model", "tier", "outcome", "simulated"), name="llmcache_bucket_hour"
            ),
        ),
        migrations.AddField(
            model_name="entrytag",
            name="entry",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="tag_rows",
                to="llmcache.cacheentry",
            ),
        ),
        migrations.AddField(
            model_name="schemaversion",
            name="previous",
            field=models.ForeignKey(
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="later",
                to="llmcache.schemaversion",
                verbose_name="the one before",
            ),
        ),
        migrations.AddIndex(
            model_name="entrytag",
            index=models.Index(fields=["tag", "entry"], name="llmcache_tag_entry"),
        ),
        migrations.AddConstraint(
            model_name="entrytag",
            constraint=models.UniqueConstraint(fields=("entry", "tag"), name="llmcache_entry_tag"),
        ),
        migrations.AddIndex(
            model_name="schemaversion",
            index=models.Index(fields=["fingerprint"], name="llmcache_schema_print"),
        ),
        migrations.AddIndex(
            model_name="schemaversion",
            index=models.Index(fields=["-last_seen_at"], name="llmcache_schema_seen"),
        ),
        migrations.AddConstraint(
            model_name="schemaversion",
            constraint=models.UniqueConstraint(fields=("response_type", "fingerprint"), name="llmcache_schema"),
        ),
        migrations.CreateModel(
            name="Dashboard",
            fields=[],
            options={
                "verbose_name": "dashboard",
                "verbose_name_plural": "dashboard",
                "proxy": True,
                "default_permissions": (),
                "indexes": [],
                "constraints": [],
            },
            bases=("llmcache.usagebucket",),
        ),
        migrations.AddField(
            model_name="providercall",
            name="ttl_seconds",
            field=models.FloatField(null=True, verbose_name="TTL in seconds"),
        ),
        migrations.AddIndex(
            model_name="cacheentry",
            index=models.Index(fields=["kind", "-written_at"], name="llmcache_entry_kind"),
        ),
        migrations.AddIndex(
            model_name="cacheentry",
            index=models.Index(fields=["model", "-written_at"], name="llmcache_entry_model"),
        ),
        migrations.AddIndex(
            model_name="cacheentry",
            index=models.Index(fields=["tenant", "-written_at"], name="llmcache_entry_tenant"),
        ),
        migrations.AddIndex(
            model_name="cacheentry",
            index=models.Index(fields=["schema", "-written_at"], name="llmcache_entry_schema"),
        ),
        migrations.AddIndex(
            model_name="providercall",
            index=models.Index(fields=["kind", "-started_at"], name="llmcache_call_kind"),
        ),
        migrations.AddIndex(
            model_name="providercall",
            index=models.Index(fields=["model", "-started_at"], name="llmcache_call_model"),
        ),
        migrations.AddIndex(
            model_name="providercall",
            index=models.Index(fields=["outcome", "-started_at"], name="llmcache_call_outcome"),
        ),
        migrations.AddIndex(
            model_name="providercall",
            index=models.Index(
                condition=models.Q(("reason", "not_found"), _negated=True),
                fields=["reason", "-started_at"],
                name="llmcache_call_reason",
            ),
        ),
        migrations.AddIndex(
            model_name="providercall",
            index=models.Index(
                condition=models.Q(("request_id", ""), _negated=True),
                fields=["request_id"],
                name="llmcache_call_request",
            ),
        ),
        migrations.RemoveIndex(
            model_name="providercall",
            name="llmcache_call_open",
        ),
        migrations.RunPython(reckon_saved, migrations.RunPython.noop, elidable=True),
        migrations.RunPython(write_tags, migrations.RunPython.noop, elidable=True),
    ]
