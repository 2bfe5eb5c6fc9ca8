"""``kbuild completion``, and what is offered for a model or an image."""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import BashComplete, CompletionItem, FishComplete, ZshComplete

from kbuild.api.project import tracking_uri
from kbuild.cli.config import project_config
from kbuild.cli.options import cache_folder
from kbuild.image.store.listing import ListedImage, list_here
from kbuild.plan.make import LABEL_RUN_ID
from kbuild.tracking.registry import names_in_file

# Bash ends words at : = and @, too, and puts what is offered in the place of the last part: click's own script
# completes no harbour:1, sha256:… or models:/….
_BASH = """\
%(complete_func)s() {
    local line=${COMP_LINE:0:COMP_POINT} word=${COMP_WORDS[COMP_CWORD]} words current type value
    read -ra words <<< "$line"
    local count=${#words[@]}
    [[ $line == *[[:space:]] ]] || count=$((count - 1))
    [[ $word != [:=@] ]] || word=
    current=${words[count]}
    COMPREPLY=()
    while IFS=',' read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("${value#"${current%%"$word"}"}") ;;
        esac
    done < <(env COMP_WORDS="$line" COMP_CWORD="$count" %(complete_var)s=bash_complete "$1")
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class _Bash(BashComplete):
    source_template = _BASH


class _Fish(FishComplete):
    # Click's own ends what is told of a value, and the value, at its first comma.
    source_template = FishComplete.source_template.replace('string split ","', 'string split --max 1 ","')


_SHELLS = {"bash": _Bash, "zsh": ZshComplete, "fish": _Fish}


@click.command("completion")
@click.argument("shell", type=click.Choice(_SHELLS))
def command(shell: str) -> None:
    """Print the script that lets SHELL complete commands, options, models and images of kbuild."""
    # Bash before 4.4 cannot, and click says so on stderr.
    click.echo(_SHELLS[shell](click.Group("kbuild"), {}, "kbuild", "_KBUILD_COMPLETE").source())


def complete_image(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names and short digests of the images that were built here."""
    return _beginning(incomplete, [(name, _about(each)) for each in _images() for name in (*each.names, _short(each))])


def complete_model(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """``@latest``, the runs whose images were built here, what is registered in a file: no server is waited for while
    somebody types."""
    newest = [("@latest", "the newest trained run"), ("@latest~1", "the one before")]
    runs = [(run, _about(each)) for each in _images() if (run := each.labels.get(LABEL_RUN_ID))]
    uri = tracking_uri(project_config(), Path.cwd())
    named = names_in_file(Path(uri.removeprefix("sqlite:///"))) if uri.startswith("sqlite:///") else []
    return _beginning(incomplete, [*newest, *dict(runs).items(), *((f"models:/{each}", "") for each in named)])


def complete_either(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """An image or a model."""
    return [*complete_image(context, parameter, incomplete), *complete_model(context, parameter, incomplete)]


def _images() -> list[ListedImage]:
    return list_here(cache_folder() / "images")


def _short(image: ListedImage) -> str:
    return f"sha256:{image.digest.hex[:12]}"


def _about(image: ListedImage) -> str:
    return f"{', '.join(image.names) or _short(image)}, {image.size / 1e6:.0f} MB"


def _beginning(incomplete: str, offered: list[tuple[str, str]]) -> list[CompletionItem]:
    return [CompletionItem(value, help=about) for value, about in offered if value.startswith(incomplete)]
