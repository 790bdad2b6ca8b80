"""Groups of commands with suggestions for mistyped names."""

from __future__ import annotations

from collections.abc import Mapping

import click


class SuggestingGroup(click.Group):
    """A group that suggests commands of similar names, on every version of click.

    `words` has sentences about the words of similar programs, by word.
    """

    words: Mapping[str, str] = {}

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command; raise UsageError with similar names for an unknown one."""
        if not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None and args[0][:1] != "-":
            from hostmanager_client.cli.suggest import close_words

            known = self.words.get(args[0], "")
            close = close_words(args[0], self.list_commands(ctx)) if not known else []
            hint = f" {known}" if known else ""
            hint = f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else hint
            raise click.UsageError(f"No such command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)
