"""What ``kbuild --help`` lists: the commands in groups of what one wants to do, where each is, and examples of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """A command: the line of the list, so that showing it imports nothing, and what people type, with what it does."""

    summary: str
    examples: tuple[tuple[str, str], ...]
    talks: bool = True

    def epilog(self) -> str:
        """As ``--help`` shows the examples; the mark keeps click from joining the lines."""
        width = max(len(typed) for typed, _ in self.examples)
        lines = [f"  {typed.ljust(width)}   {does}" for typed, does in self.examples]
        if any(len(line) > _WIDTH for line in lines):
            lines = [line for typed, does in self.examples for line in (f"  {typed}", f"      {does}")]
        return "\n".join(["\b", "Examples:", *lines])


_WIDTH = 78

GROUPS: dict[str, dict[str, Listed]] = {
    "Begin": {
        "demo": Listed(
            summary="Train, lock, build, run and ask the shipped project.",
            examples=(
                ("kbuild demo", "the whole way, in a folder of its own"),
                ("kbuild demo --dir try-kbuild", "in this one, to look at"),
            ),
        ),
        "init": Listed(
            summary="Write kbuild.yml and CI jobs into a Kedro project.",
            examples=(
                ("kbuild init", "in the project of this folder"),
                ("kbuild init --ci github --push registry.example/churn", "with the job that builds after training"),
            ),
            talks=False,
        ),
        "doctor": Listed(
            summary="Look at everything that is needed, and say what to type.",
            examples=(("kbuild doctor", "what is here and what is missing"), ("kbuild doctor --json", "for a program")),
            talks=False,
        ),
        "help": Listed(
            summary="Show a page of the documentation.",
            examples=(("kbuild help", "which pages there are"), ("kbuild help howto#work-offline", "a part of one")),
            talks=False,
        ),
    },
    "From a model to an image": {
        "image": Listed(
            summary="Build the image that serves a model.",
            examples=(
                ("kbuild image --tag churn:1", "of the newest run of this project"),
                ("kbuild image models:/churn@champion --push registry.example/churn:{version}", "and push it"),
                ("kbuild image --all-registered --jobs 4", "of every registered model"),
                ("kbuild image --from-file models.txt --shard 3/40", "of a list's models the third of 40 shares"),
            ),
        ),
        "pack": Listed(
            summary="Pack a model with its Python, to run without install.",
            examples=(
                ("kbuild pack -o model.tar.gz", "of the newest run of this project"),
                ("kbuild pack models:/churn@champion -o churn.tar.zst", "of a registered model, packed by zstd"),
            ),
        ),
        "lock": Listed(
            summary="Pin every package of a model by url and sha256.",
            examples=(
                ("kbuild lock", "writes conda-lock.yml for the newest run"),
                ("kbuild lock 3f2a91c0 --platform linux/amd64,linux/arm64", "for two kinds of machines"),
            ),
        ),
        "render": Listed(
            summary="Write the Dockerfile and what it copies.",
            examples=(
                ("kbuild render @latest -o context", "and build it yourself: docker build context"),
                ("kbuild render @latest --template in-container -o context", "one that installs in the builder"),
            ),
        ),
        "watch": Listed(
            summary="Build what is registered in MLflow, as it is registered.",
            examples=(
                ("kbuild watch --push registry.example/{name}:{version}", "all versions, and all aliases as tags"),
                ("kbuild watch --once --model 'churn-*' --since 30d", "what is wanted now, for a cron job"),
                ("kbuild watch --push registry.example/{name}:{version} --listen 0.0.0.0:8090", "and take webhooks"),
                ("kbuild watch --register https://kbuild.example/webhook", "have MLflow send them"),
            ),
        ),
        "worker": Listed(
            summary="Build what is in a queue, on as many machines as you like.",
            examples=(
                ("kbuild worker --queue postgresql://kbuild@db.example/kbuild", "until SIGTERM"),
                ("kbuild worker --once --jobs 2", "what waits now in the queue that KBUILD_QUEUE names"),
            ),
        ),
    },
    "Images": {
        "run": Listed(
            summary="Serve an image on this machine.",
            examples=(
                ("kbuild run", "the newest run's, built if need be"),
                ("kbuild run churn:1 --port 8080", "on a port of your own"),
            ),
        ),
        "verify": Listed(
            summary="Compare an image's answers with training's.",
            examples=(
                ("kbuild verify churn:1", "does it answer as the trained model did?"),
                ("kbuild verify churn:1 --rebuild", "does building it again give the same bytes?"),
            ),
        ),
        "score": Listed(
            summary="Score tables with exactly what is served.",
            examples=(
                ("kbuild score @latest customers.parquet scored", "with the newest run of this project"),
                ("kbuild score models:/churn@champion 'in/*.csv' out.csv --on-error reject", "without rows that fail"),
                ("kbuild score @latest 's3://lake/in' s3://lake/out --spark spark://host:7077", "on a cluster"),
            ),
        ),
        "measure": Listed(
            summary="What an image takes and gives under a short load.",
            examples=(
                ("kbuild measure churn:1", "with one processor, for kbuild deploy on this machine"),
                (
                    "kbuild measure registry.example/churn:3 --cpu 2 --json > profile.json",
                    "for kbuild deploy elsewhere",
                ),
            ),
        ),
        "deploy": Listed(
            summary="Write what has a cluster or a host serve an image.",
            examples=(
                ("kbuild deploy models:/churn@champion --to kubernetes -o deploy", "for: kubectl apply -k deploy"),
                (
                    "kbuild deploy models:/churn/3 --canary models:/churn/4=10 --to kserve -o deploy",
                    "and the next version beside it, for 10 % of the requests",
                ),
                ("kbuild deploy registry.example/churn:3 --to compose -o churn", "for: docker compose up"),
            ),
        ),
        "list": Listed(
            summary="The images that were built here.",
            examples=(("kbuild list", "the newest first"), ("kbuild list --json", "for a program")),
            talks=False,
        ),
        "inspect": Listed(
            summary="What an image says of itself, wherever it is.",
            examples=(
                ("kbuild inspect churn:1", "labels, packages, sizes"),
                ("kbuild inspect registry.example/churn:1 --json", "of a registry, for a program"),
            ),
        ),
    },
    "What is in it": {
        "audit": Listed(
            summary="What a model is made of, and what is wrong with it.",
            examples=(
                ("kbuild audit", "of the newest run"),
                ("kbuild audit models:/churn@champion --fail-on high", "exit code 51 for what is high or worse"),
                ("kbuild audit churn:1 --format cyclonedx -o sbom.json", "its SBOM"),
            ),
        ),
        "diff": Listed(
            summary="What differs between two runs or two images.",
            examples=(
                ("kbuild diff", "the two newest runs"),
                ("kbuild diff churn:1 churn:2", "packages, files and settings of two images"),
            ),
        ),
    },
    "Keep in order": {
        "cache": Listed(
            summary="Look at, shrink and check what is kept between builds.",
            examples=(
                ("kbuild cache info", "what is kept, and how large it is"),
                ("kbuild cache prune --limit 5GB", "make room"),
            ),
            talks=False,
        ),
        "queue": Listed(
            summary="Look at the jobs of a queue, try them again, cancel them.",
            examples=(
                ("kbuild queue list --status failed", "of the queue that KBUILD_QUEUE names"),
                ("kbuild queue retry --failed", "have them tried again"),
                ("kbuild queue prune --days 90", "delete what ended before that"),
                ("kbuild queue --serve --listen 127.0.0.1:8091", "a page that shows it, and /metrics"),
            ),
            talks=False,
        ),
        "trigger": Listed(
            summary="Deliver, list or check what follows training.",
            examples=(
                ("kbuild trigger", "what happened after the last trainings"),
                ("kbuild trigger --flush", "send again what no server took"),
            ),
            talks=False,
        ),
        "completion": Listed(
            summary="Print what makes a shell complete kbuild's commands.",
            examples=(
                ('eval "$(kbuild completion bash)"', "in ~/.bashrc"),
                ("kbuild completion fish > ~/.config/fish/completions/kbuild.fish", "for fish"),
            ),
            talks=False,
        ),
    },
}
COMMANDS = {name: listed for group in GROUPS.values() for name, listed in group.items()}
