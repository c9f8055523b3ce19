"""`python -m infra.demo_model [FOLDER]`: makes the demo model where it is missing, and says nothing where it is not."""

from __future__ import annotations

from pathlib import Path

import click

from infra.demo_model.build import FOLDER, NotOurFolderError, build


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=FOLDER)
def main(folder: Path) -> None:
    """Make the demo model in FOLDER (by default where the worker looks for it)."""
    try:
        if build(folder):
            click.echo(f"made the demo model in {folder}")
    except NotOurFolderError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
