"""Help with options under headings: a flat list of thirty is not read."""

from __future__ import annotations

from typing import Any

import click


class Option(click.Option):
    """An option that belongs under a heading of --help."""

    def __init__(self, *args: Any, section: str = "Options", **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.section = section


class Command(click.Command):
    """A command whose --help lists each heading's options in the order of declaration."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        general: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                found = sections.setdefault(parameter.section, []) if isinstance(parameter, Option) else general
                found.append(record)
        for title, records in (*sections.items(), ("General", general)):
            with formatter.section(title):
                formatter.write_dl(records)


def option(section: str, *names: str, **settings: Any) -> Any:
    """click.option under a heading."""
    return click.option(*names, cls=Option, section=section, **settings)
