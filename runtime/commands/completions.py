"""`flashvsr-trt completions`: a completion script for a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completions(context: click.Context, shell: str) -> None:
    """Print a completion script.

    \b
    bash:  flashvsr-trt completions bash > ~/.local/share/bash-completion/completions/flashvsr-trt
    zsh:   flashvsr-trt completions zsh > "${fpath[1]}/_flashvsr-trt"
    fish:  flashvsr-trt completions fish > ~/.config/fish/completions/flashvsr-trt.fish
    """
    program = context.find_root().info_name or "flashvsr-trt"
    kind = get_completion_class(shell)
    assert kind is not None  # every choice above is one that click has
    variable = f"_{program}_COMPLETE".replace("-", "_").upper()
    click.echo(kind(context.find_root().command, {}, program, variable).source())
