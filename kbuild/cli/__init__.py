"""F9: the command line, the only floor that prints, asks or exits."""

from __future__ import annotations


def main() -> None:
    """The ``kbuild`` console script."""
    import gc

    # What a command holds it holds to its end: looking through it all again and again takes a twentieth of a build.
    gc.set_threshold(50_000, 20, 20)
    try:
        from kbuild.cli.app import run
    except ModuleNotFoundError as error:
        import sys

        from kbuild.errors import ExtraNotInstalled

        if error.name is not None and error.name.partition(".")[0] == "kbuild":
            raise
        print(f"error: kbuild's build tools are not installed ({error.name} is missing)", file=sys.stderr)
        print(f"  {ExtraNotInstalled.default_hint}", file=sys.stderr)
        sys.exit(ExtraNotInstalled.exit_code)
    run()
