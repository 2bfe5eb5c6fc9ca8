"""``kbuild deploy``."""

from __future__ import annotations

from pathlib import Path

import click

from kbuild.api.deploying import TARGETS, DeployOptions, deploy
from kbuild.cli.config import env_option
from kbuild.cli.options import complete_either, open_here
from kbuild.cli.show import Show
from kbuild.deploy.deployment import Size, parse_replicas

_DEFAULT = Size()
_NEXT = {"kubernetes": "kubectl apply -k {}", "knative": "kubectl apply -k {}", "kserve": "kubectl apply -k {}"}
_NEXT["compose"] = "docker compose --project-directory {} up -d"


@click.command("deploy")
@click.argument("subject", metavar="MODEL|IMAGE", shell_complete=complete_either)
@click.option("--to", type=click.Choice(list(TARGETS)), required=True, help="What is to serve it.")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder for the manifests."
)
@click.option("--name", help="A DNS label.  [default: of the model's name, else the image's]")
@click.option("--namespace", help="Of the cluster; kustomization.yaml names it.")
@click.option("--pull-secret", metavar="NAME", help="Secret of the namespace with the registry's credentials.")
@click.option("--cpu", default=_DEFAULT.cpu, show_default=True, help="Processors of a replica; a worker process each.")
@click.option("--memory", default=_DEFAULT.memory, show_default=True, help="Memory of a replica.")
@click.option(
    "--replicas",
    metavar="N|MIN..MAX",
    default=f"{_DEFAULT.least}..{_DEFAULT.most}",
    show_default=True,
    callback=lambda _context, _option, text: parse_replicas(text),
    help="How many there are; compose has one.",
)
@env_option
def command(
    subject: str,
    to: str,
    output: Path,
    name: str | None,
    namespace: str | None,
    pull_secret: str | None,
    cpu: str,
    memory: str,
    replicas: tuple[int, int],
) -> None:
    """Write what has MODEL|IMAGE served by a cluster or a host: plain YAML, the image by digest.

    IMAGE is one of a registry, MODEL one whose image was pushed. For Kubernetes it is a Kustomize folder with probes,
    limits, an autoscaler, a disruption budget and a network policy, in the restricted security profile. The same image
    and options give the same files; a folder of an earlier time is brought up to date.
    """
    show = Show()
    size = Size(cpu=cpu, memory=memory, least=replicas[0], most=replicas[1])
    options = DeployOptions(to=to, name=name, namespace=namespace, pull_secret=pull_secret, size=size)
    for path in deploy(subject, output, options, session=open_here(show)):
        click.echo(path)
    show.say(f"  {_NEXT[to].format(output)}   # serve it")
