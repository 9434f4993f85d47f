"""`users set | list | remove`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from pacs_node.cli.context import of, print_json, print_table, who
from pacs_node.errors import ConfigError

if TYPE_CHECKING:
    from pacs_node.web.users import Users

Name = Annotated[str, typer.Argument(metavar="NAME", help="The name to log in with.")]


def _users(context: typer.Context) -> Users:
    from pacs_node.web.users import Users

    return Users(of(context).settings().web.users)


def set_(
    context: typer.Context,
    name: Name,
    role: Annotated[str, typer.Option(help="viewer, radiologist or admin.")],
) -> None:
    """Add somebody, or give them another role and password, which is asked for or read from a pipe.

    viewer: states, results, figures and audit trail, but no patient, no image, no action. radiologist: also
    patients and images, and says what was right. admin: also tries again, gives up, sees the configuration.

    Example: pacs-node users set anna --role radiologist
    """
    from pacs_node.web.users import Role

    if role not in {*Role}:
        raise ConfigError(f"--role {role}: no such role; there are {', '.join(Role)}")
    users = _users(context)
    if sys.stdin.isatty():
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        password = sys.stdin.readline().rstrip("\n")
    users.set(name, Role(role), password)
    _end_sessions(context, name)
    Console(highlight=False, markup=False).print(f"{name} may log in as {role}; {users.path}")


def list_(
    context: typer.Context, json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """List who may log in.

    Example: pacs-node users list
    """
    rows = [{"name": name, "role": str(role)} for name, role in _users(context).roles.items()]
    if json:
        print_json(rows)
        return
    print_table(rows, {"name": "name", "role": "role"}, "nobody: `pacs-node users set NAME --role admin`")


def remove(context: typer.Context, name: Name) -> None:
    """Remove somebody, who is logged out at once.

    Example: pacs-node users remove anna
    """
    if not _users(context).remove(name):
        raise ConfigError(f"{name}: no such user; `pacs-node users list` lists them")
    _end_sessions(context, name)
    Console(highlight=False, markup=False).print(f"{name} is removed")


def _end_sessions(context: typer.Context, name: str) -> None:
    """Log them out wherever they are, where there is a journal already."""
    from pacs_node.journal import sessions
    from pacs_node.journal.database import Database

    if Database(of(context).settings().database_url).exists:
        sessions.end_all(of(context).database(), name, who())
