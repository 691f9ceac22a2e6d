"""What becomes of errors: one line on stderr and an exit code, or with `--debug` the traceback."""

from __future__ import annotations

import subprocess
from typing import Any, Final

import typer
from typer.core import TyperGroup

from k1s0_event_store.exceptions import ConcurrencyError, DuplicateEventError, EventStoreError
from k1s0_event_store.terminal import plain

FAILED: Final = 1
CONFLICT: Final = 3
INTERRUPTED: Final = 130

EXIT_CODES: Final = (
    "Exit codes: 0 done; 1 failed, or something was found wrong or missing; 2 wrong usage; "
    "3 conflict, another writer was first or an event id is taken; 130 interrupted by Ctrl-C."
)


class ReportingGroup(TyperGroup):
    """The commands; whatever one of them raises is reported here."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # nobody reads on: Typer ends silently
            raise
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except (EventStoreError, OSError, subprocess.SubprocessError) as error:
            if ctx.params.get("debug"):
                raise
            typer.echo(f"error: {plain(' '.join(str(error).split()))}", err=True)
            raise typer.Exit(_exit_code(error)) from error


def _exit_code(error: Exception) -> int:
    return CONFLICT if isinstance(error, ConcurrencyError | DuplicateEventError) else FAILED
