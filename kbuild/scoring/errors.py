"""What can be wrong with a batch; errors of archives alone, so that models and images do not carry them."""

from __future__ import annotations

from kbuild.errors import KbuildError


class InputRefused(KbuildError):
    """A table to score that is not there, cannot be read, or lacks columns of the model."""

    exit_code = 80


class RowsFailed(KbuildError):
    """Rows that the model does not answer."""

    exit_code = 81


class OtherAnswers(KbuildError):
    """A place that holds the answers to another input, by another model, or with other options."""

    exit_code = 82


class SparkFailed(KbuildError):
    """Spark cannot be used, or gave up; what is finished is kept."""

    exit_code = 84


class WorkerLost(KbuildError):
    """A process that scored was killed; what is finished is kept."""

    exit_code = 83
