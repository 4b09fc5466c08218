"""``kaizen migrate``: from this machine's files to servers."""

from __future__ import annotations

import click

from kaizenml.cli.face import current
from kaizenml.cli.shell import Command


def _migrate(catalog: str | None, objects: str | None, online: str | None) -> None:
    from kaizenml import moving

    face = current()
    with face.progress() as progress:
        moved = moving.migrate(face.root(), catalog=catalog, objects_at=objects, online=online, progress=progress)
    if not moved.catalog:
        face.show(moved, f"moved before; {moved.online:,} newer online values copied or put once more")
        return
    lines = [
        f"catalog  {sum(moved.rows.values()):,} rows of {len(moved.rows)} tables, {moved.events:,} events; head {moved.head}",
        f"data     {moved.parts:,} parts, {moved.folders:,} models and releases, each compared with its hash",
        f"online   {moved.online:,} rows",
        "",
        "next: kaizen up --replace (or serve --replace; start loop and console anew); then the same command once more, for what came in between",
    ]
    face.show(moved, "\n".join(lines))


COMMANDS = {
    "migrate": Command(
        "migrate",
        callback=_migrate,
        params=[
            click.Option(["--catalog"], metavar="URL", help="postgresql://USER:${PASSWORD}@HOST/DATABASE; ${...} is taken from the environment."),
            click.Option(["--objects"], metavar="URL", help="s3://BUCKET/PREFIX for tables, models and releases; goes with --catalog."),
            click.Option(["--online"], metavar="URL", help="redis://HOST:6379/0 for the newest feature values."),
        ],
        help="Move the project's state to servers while it goes on serving.\n\nCopies and compares, then holds writers for a moment, and "
        "switches kaizen.toml. Killed anywhere, the same command goes on.",
        epilog="\b\nexample:\n  kaizen migrate --catalog 'postgresql://shop:${SHOP_PASSWORD}@db/shop' --objects s3://bucket/shop",
    )
}
