"""F0: starting processes. Nothing else does; whoever needs one is handed a ``Runner`` or a ``Starter``."""

from kbuild.process.runner import Completed, Runner, RunnerGroup, last_line, run
from kbuild.process.starter import RunningProcess, Starter, start

__all__ = ["Completed", "Runner", "RunnerGroup", "RunningProcess", "Starter", "last_line", "run", "start"]
