"""``kbuild deploy``."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from kbuild.api.deploying import TARGETS, DeployOptions, deploy
from kbuild.cli.config import env_option
from kbuild.cli.options import complete_either, open_here
from kbuild.cli.show import Show
from kbuild.deploy.canary import DEFAULT_PERCENT, Gateway, parse_canary
from kbuild.deploy.deployment import Size, parse_replicas
from kbuild.deploy.serverless import BEFORE

_DEFAULT = Size()


@click.command("deploy")
@click.argument("subject", metavar="MODEL|IMAGE", shell_complete=complete_either)
@click.option("--to", type=click.Choice(TARGETS), required=True, help="What is to serve it.")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder for the manifests."
)
@click.option("--name", help="A DNS label.  [default: of the model's name, else the image's]")
@click.option("--namespace", help="Of the cluster; kustomization.yaml names it.")
@click.option("--pull-secret", metavar="NAME", help="Secret of the namespace with the registry's credentials.")
@click.option(
    "--cpu",
    help=f"Processors of a replica; a worker process each.  [default: as measured, else {_DEFAULT.cpu}]",
)
@click.option("--memory", help=f"Memory of a replica.  [default: as measured, else {_DEFAULT.memory}]")
@click.option(
    "--replicas",
    metavar="N|MIN..MAX",
    default=f"{_DEFAULT.least}..{_DEFAULT.most}",
    show_default=True,
    callback=lambda _context, _option, text: parse_replicas(text),
    help="How many there are; compose has one.",
)
@click.option(
    "--profile",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help='What "kbuild measure --json" printed elsewhere.  [default: what was measured of the image here]',
)
@click.option(
    "--canary",
    metavar="MODEL|IMAGE[=PERCENT]",
    callback=lambda _context, _option, text: None if text is None else parse_canary(text),
    help=f"A second version, which gets {DEFAULT_PERCENT} percent of the requests or as many as you say.",
)
@click.option(
    "--gateway",
    metavar="[NAMESPACE/]NAME",
    help="Kubernetes: a Gateway that requests come in by; an HTTPRoute leads from it to the Service.",
)
@click.option("--hostname", help="Whose requests the Gateway sends.  [default: any]")
@click.option("--serverless", is_flag=True, help="KServe: by Knative, as its canaries are.")
@click.option("--port", type=click.IntRange(1, 65535), help="Compose: port on 127.0.0.1.  [default: the image's]")
@env_option
def command(
    subject: str,
    to: str,
    output: Path,
    name: str | None,
    namespace: str | None,
    pull_secret: str | None,
    cpu: str | None,
    memory: str | None,
    replicas: tuple[int, int],
    profile: Path | None,
    canary: tuple[str, int] | None,
    gateway: str | None,
    hostname: str | None,
    serverless: bool,
    port: int | None,
) -> None:
    """Write what has MODEL|IMAGE served by a cluster or a host: plain YAML, the image by digest.

    IMAGE is one of a registry, MODEL one whose image was pushed. For Kubernetes it is a Kustomize folder with probes,
    limits, an autoscaler, a disruption budget and a network policy, in the restricted security profile. How much a
    replica gets is as "kbuild measure" found it, or as you say. The same image, profile and options give the same
    files; a folder of an earlier time is brought up to date.
    """
    show = Show()
    if hostname is not None and gateway is None:
        raise click.UsageError("--hostname is for a --gateway")
    options = DeployOptions(
        to=to,
        name=name,
        namespace=namespace,
        pull_secret=pull_secret,
        cpu=cpu,
        memory=memory,
        replicas=replicas,
        profile=profile,
        canary=canary,
        gateway=None if gateway is None else Gateway.parse(gateway, hostname),
        serverless=serverless,
        port=port,
    )
    for path in deploy(subject, output, options, session=open_here(show)):
        click.echo(path)
    folder, before = shlex.quote(str(output)), shlex.quote(str(output / BEFORE))
    if to == "compose":
        show.next({f"docker compose --project-directory {folder} up -d": "serve it"})
        return
    first = (output / BEFORE).is_dir() and canary is not None
    show.next(
        {
            **({f"kubectl apply -k {before}": "the version to compare with; wait until it is ready"} if first else {}),
            f"kubectl apply -k {folder}": "serve it",
        }
    )
