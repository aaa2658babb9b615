"""The entry point: finds the verb, runs it, and turns what happened into an exit code.

0: nothing found at or above ``--fail-on``; 1: something was; 2: the request is wrong; 3: a method failed, or we did;
4: a budget stopped it; 130: interrupted; 141: whoever read the output went away.
"""

from __future__ import annotations

import importlib
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import click

from ironglass._version import __version__
from ironglass.cli.screen import INTERRUPTED, Screen
from ironglass.core.errors import InputError, IronglassError, suggest

VERBS = {
    "audit": "audit",
    "attack": "methods",
    "explain": "methods",
    "certify": "methods",
    "defend": "methods",
    "metric": "methods",
    "bench": "bench",
    "list": "show",
    "show": "show",
    "report": "report",
    "diff": "report",
    "doctor": "doctor",
}
"""Each verb, and the file that holds its command; a file is imported when its verb is asked for."""

CLOSED = 141


class _ReaderGone(Exception):
    """Whoever read the output went away, as in ``ironglass list | head -1``."""


class Root(click.Group):
    """The verbs, loaded on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the verbs in the order of `VERBS`."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Returns a verb's command."""
        if cmd_name not in VERBS:
            return None
        verbs: dict[str, click.Command] = importlib.import_module(f"ironglass.cli.{VERBS[cmd_name]}").VERBS
        return verbs[cmd_name]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Returns the verb that the arguments name, or says which there are."""
        if args[0] not in VERBS and not ctx.resilient_parsing:
            raise InputError(f"no verb called '{args[0]}'", suggest(args[0], VERBS))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the verb; a reader that went away is told from a failure."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise _ReaderGone from error

    def main(self, args: Sequence[str] | None = None, *more: Any, **extra: Any) -> NoReturn:
        """Runs the command line and exits."""
        words = list(sys.argv[1:] if args is None else args)
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")
        screen = Screen()
        screen.command = shlex.join(["ironglass", *words])
        extra |= {"obj": screen, "standalone_mode": False}
        with screen.hears_warnings():
            code = _code_of(lambda: super(Root, self).main(words, *more, **extra), screen)
        sys.exit(code)


def _code_of(run: Callable[[], Any], screen: Screen) -> int:
    """Returns the exit code of a run; what went wrong is said on the way."""
    try:
        code = run()
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except (click.Abort, KeyboardInterrupt):
        screen.note("ironglass: interrupted")
        return INTERRUPTED
    except (_ReaderGone, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return InputError.exit_code
    except click.ClickException as error:
        screen.error(_from_click(error))
        return InputError.exit_code
    except IronglassError as error:
        _trace(screen)
        screen.error(error)
        return error.exit_code
    except Exception as error:
        _trace(screen)
        fix = "report it with this line" if screen.debug else "report it with what --debug shows"
        screen.error(IronglassError(f"{type(error).__name__}: {error}. This is our bug", fix))
        return IronglassError.exit_code


def _trace(screen: Screen) -> None:
    if screen.debug:
        traceback.print_exc()


def _from_click(error: click.ClickException) -> InputError:
    """Returns a parser's complaint as one of ours."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    fix = f"see `{context.command_path} --help`" if context else "see `ironglass --help`"
    if isinstance(error, click.NoSuchOption):
        near = f"did you mean {error.possibilities[0]}? " if error.possibilities else ""
        return InputError(f"there is no option {error.option_name}", near + fix)
    return InputError(error.format_message().rstrip("."), fix)


@click.version_option(__version__, prog_name="ironglass", message="%(prog)s %(version)s")
@click.group(
    "ironglass",
    cls=Root,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="MODEL and --data are names or files, e.g. net.py:make and test.npz; `ironglass audit` alone audits a demo.",
)
def root() -> None:
    """See through a model and try to break it: explain, attack, certify, and audit it whole."""


def main() -> None:
    """Runs the command line."""
    root.main(prog_name="ironglass")
