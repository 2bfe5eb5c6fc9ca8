"""The Kedro hook that logs the model when what ran is a PipelineML, and keeps runs that save metrics or artifacts."""

from __future__ import annotations

import inspect
import os
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from kedro.framework.hooks import hook_impl

from kbuild.errors import KbuildError, RecordingError, UnexpectedError
from kbuild.hooks import kedro_mlflow
from kbuild.hooks.look_ahead import look_ahead, try_config
from kbuild.hooks.others import Onlooker, Probe, find_others, find_unwatched, tell_others, tell_probed, watching
from kbuild.hooks.planned import (
    attach,
    find_pipeline_ml,
    find_released,
    find_tracking_outputs,
    get_package_name,
    get_project_path,
    leave_out_existing,
    lend,
)
from kbuild.hooks.saying import complain, say
from kbuild.hooks.terminated import EndWatch, Terminated
from kbuild.hooks.under_way import Training, keep
from kbuild.project.tracking_settings import find_disabled
from kbuild.training.one_line import one_line_errors
from kbuild.training.plugins import BEFORE_LOADING
from kbuild.training.staleness import LOG_VARIABLE

if TYPE_CHECKING:
    from kedro.pipeline import Pipeline
    from kedro.pipeline.node import Node

    from kbuild.project.config import ProjectConfig
    from kbuild.recording.record import RecordedModel
    from kbuild.training.pipeline_ml import PipelineML


class MlflowPipelineHook(Onlooker):
    """Starts an MLflow run where none is active, and logs the model when training ends well, or fails the Kedro run."""

    def __init__(self) -> None:
        self._training: Training | None = None
        self._lent = ExitStack()
        self._config_loader: Any = None
        self._theirs: Any = None
        self._others: frozenset[str] = frozenset()
        self._probe = Probe(None)

    # Last: kedro-mlflow reads its own settings there.
    @hook_impl(trylast=True)  # type: ignore[untyped-decorator]
    def after_context_created(self, context: Any) -> None:
        """Keep the session's config loader, which knows the environment that kbuild.yml is read from."""
        self._config_loader = context.config_loader
        self._theirs = kedro_mlflow.find_settings(context)
        manager = getattr(context, "_hook_manager", None)
        self._others, self._probe = find_others(manager), Probe(manager)

    @hook_impl  # type: ignore[untyped-decorator]
    def after_catalog_created(self, catalog: Any, conf_catalog: dict[str, Any]) -> None:
        """Tell metrics of the catalog their names, for notebooks: runs tell them again, with the run."""
        if any("kbuild." in str(entry.get("type")) for entry in conf_catalog.values() if isinstance(entry, dict)):
            from kbuild.datasets.tracked import name_all

            name_all(conf_catalog, catalog)

    # Last, so that a run that another hook starts for this pipeline is there already.
    @hook_impl(trylast=True)  # type: ignore[untyped-decorator]
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: Any) -> None:
        """Refuse what could not be logged, start or find the MLflow run, and see what has to be captured."""
        with one_line_errors():
            planned = self._plan(run_params, pipeline, catalog)
            # Where something is planned, look_ahead tells of the catalog's entries that cannot be made.
            asked = planned is not None or find_tracking_outputs(pipeline, catalog)
            if not asked and not hasattr(self._config_loader, "config_patterns"):
                return
            project_path = get_project_path(run_params)
            config, wrong = try_config(project_path, run_params.get("env"), self._config_loader)
            config = replace(config, tracking=kedro_mlflow.leave_out(config.tracking, self._theirs))
            untracked = (*config.tracking.disabled, *kedro_mlflow.get_disabled(self._theirs))
            if disabled := find_disabled(run_params, untracked):
                if asked:
                    say(f"MLflow is told nothing: disable_tracking names the pipeline {disabled}")
                attach(pipeline, catalog, None, off=True)
            elif planned is None and self._theirs is not None:
                self._lent.callback(lend(pipeline, catalog))  # the run is theirs, and active
            elif asked or config.tracking.every_run:
                if planned is not None:
                    data = BEFORE_LOADING not in self._others
                    look_ahead(planned, catalog, config, project_path, get_package_name(), wrong, data=data)
                elif wrong is not None:
                    raise wrong
                self._begin(run_params, pipeline, catalog, planned, config)

    def _plan(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: Any) -> PipelineML | None:
        """What will train a model that is to be logged; None, and a line that says why, where nothing will."""
        pipeline_ml = find_pipeline_ml(pipeline)
        if pipeline_ml is None:
            if kedro_mlflow.is_theirs(pipeline):
                say(kedro_mlflow.THEY_LOG)
            return None
        if os.environ.get(LOG_VARIABLE, "").lower() in ("0", "false", "no"):
            say(f"No model is logged: {LOG_VARIABLE} is set")
            return None
        planned = leave_out_existing(pipeline_ml, catalog) if run_params.get("only_missing_outputs") else pipeline_ml
        if not planned.trains:
            say("No model is logged: no output of training is missing, so nothing is trained")
            return None
        return planned

    def _begin(
        self,
        run_params: dict[str, Any],
        pipeline: Pipeline,
        catalog: Any,
        planned: PipelineML | None,
        config: ProjectConfig,
    ) -> None:
        import mlflow

        from kbuild.recording.mlflow_run import make_tags, start_training_run
        from kbuild.recording.run.facts import find_versions, log_start
        from kbuild.recording.run.git import read_git_state

        project_path = get_project_path(run_params)
        name = get_package_name() or project_path.name
        git = read_git_state(project_path)
        tags = {**config.training.tags, **make_tags(run_params, git, name, config.tracking)}
        run = start_training_run(project_path, name, tags, config.tracking, logs_models=planned is not None)
        self._training = Training(
            run=run,
            tracking_uri=mlflow.get_tracking_uri(),
            config=config,
            git=git,
            wanted=frozenset() if planned is None else find_released(planned.binding, pipeline, catalog),
            planned=planned,
            detach=partial(attach, pipeline, catalog, None),
            versions=partial(find_versions, pipeline, catalog, whole=False),
            guard=EndWatch(self._abandon),
        )
        self._training.guard.install()
        with self._failing():
            self._training.parameters = log_start(run.run_id, pipeline, catalog, config.tracking)
            attach(pipeline, catalog, run.run_id)

    # Wrappers, and the outermost: what other hooks do lies between.
    @hook_impl(wrapper=True, tryfirst=True)  # type: ignore[untyped-decorator]
    def before_node_run(self, node: Node, inputs: dict[str, Any]) -> Generator[None, Any, Any]:
        """See which nodes run and what other hooks give them; those of other processes are not seen."""
        with watching(self._training, self._others, "before_node_run", dict(inputs)):
            results = yield
        if self._training is not None:
            self._training.ran.add(node.name)
            self._training.given.update(name for each in results if isinstance(each, dict) for name in each)
        return results

    @hook_impl(wrapper=True, tryfirst=True)  # type: ignore[untyped-decorator]
    def after_dataset_saved(self, dataset_name: str, data: Any, node: Node) -> Generator[None, Any, Any]:
        """Keep in-memory data that the inference pipeline needs, before the runner releases it; and as above."""
        training = self._training
        with watching(training, self._others, "after_dataset_saved", {dataset_name: data}):
            result = yield
        if training is not None and dataset_name in training.wanted and not inspect.isgeneratorfunction(node.func):
            training.captured[dataset_name] = data
        return result

    # A wrapper, and the outermost: the model is logged before another hook ends the run, and told of after that.
    @hook_impl(wrapper=True, tryfirst=True)  # type: ignore[untyped-decorator]
    def after_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: Any
    ) -> Generator[None, Any, Any]:
        """Log the model, say so in one line, end the run, and do what is to follow it."""
        training, recorded = self._training, self._log(run_params, pipeline, catalog)
        result = yield
        self._lent.close()
        if training is not None and recorded is not None:
            from kbuild.hooks.start_trigger import follow

            line = follow(
                training.config,
                recorded,
                tracking_uri=training.tracking_uri,
                project=get_package_name() or get_project_path(run_params).name,
                git=training.git,
            )
            say(line)
        return result

    def _log(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: Any) -> RecordedModel | None:
        training = self._training
        if training is None:
            return None
        if training.guard.came:  # a node caught it, and went on
            raise Terminated
        with one_line_errors():
            if training.planned is None:
                self._finish(training, pipeline, catalog)
                return None
            if find_pipeline_ml(pipeline) is None:
                raise UnexpectedError("a training run ended with another pipeline than it began with")
            # What the runner was seen to run counts more than what was foreseen.
            pipeline_ml = training.planned.only_nodes(*training.ran) if training.ran else training.planned
            from kbuild.recording.mlflow_run import read_licence
            from kbuild.recording.record import record_model
            from kbuild.recording.run.facts import log_end

            say(*tell_others(training.given, training.changed, find_unwatched(training, self._others)))
            checked = ", and asking it in a clean process" if training.config.training.check else ""
            say(f"Recording the inference pipeline as a model{checked}")  # which takes seconds, over a network minutes
            self._probe.artifacts = frozenset(pipeline_ml.inference.inputs()) - set(pipeline_ml.input_names)
            with self._failing():
                log_end(training.run.run_id, pipeline, catalog, training.config.tracking, training.parameters)
                recorded = record_model(
                    pipeline_ml,
                    catalog,
                    run_id=training.run.run_id,
                    package_name=get_package_name(),
                    settings=training.config.training,
                    captured=training.captured,
                    git=training.git,
                    licence=read_licence(get_project_path(run_params)),
                    probes=(self._probe,),
                )
            say(*tell_probed(self._probe.given))
            if problem := self._end("FINISHED"):
                raise RecordingError(
                    f"the model {recorded.model_uri} is logged, but {problem}",
                    hint=f"mark it when the server is back, in Python: "
                    f"mlflow.MlflowClient().set_terminated({recorded.run_id!r})",
                )
        reused = f" ({', '.join(recorded.reused)} from an earlier run)" if recorded.reused else ""
        neighbour = kedro_mlflow.WE_LOG if self._theirs is not None else ""
        say(f"Logged model {recorded.model_uri} in run {recorded.run_id}{reused}{neighbour}", *recorded.notes)
        return recorded

    def _finish(self, training: Training, pipeline: Pipeline, catalog: Any) -> None:
        """End a run without a model."""
        from kbuild.recording.run.facts import log_end

        with self._failing():
            log_end(training.run.run_id, pipeline, catalog, training.config.tracking, training.parameters)
        if problem := self._end("FINISHED"):
            raise RecordingError(problem)
        say(f"Kept in MLflow run {training.run.run_id}")

    @hook_impl  # type: ignore[untyped-decorator]
    def on_pipeline_error(self) -> None:
        """Keep what the run was given, and end it as failed."""
        self._lent.close()
        self._tell(keep(self._training))
        self._tell(self._end("FAILED"))

    def _abandon(self) -> None:  # interrupted: no hook was called, and MLflow would call the run finished
        self._tell(keep(self._training))
        self._tell(self._end("KILLED"))

    def _end(self, status: str) -> str | None:
        """End the run; returns None, or why the server still calls it running."""
        from kbuild.recording.mlflow_run import end_training_run

        training, self._training = self._training, None
        if training is None:
            return None
        training.detach()
        with training.guard:
            return end_training_run(training.run, status)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """End the run as failed where this fails, in whose one line is said what the server was not told."""
        try:
            yield
        except KbuildError as error:
            if problem := self._end("FAILED"):
                raise type(error)(f"{error.message}; {problem}", hint=error.hint) from error
            raise
        except BaseException as error:
            self._tell(self._end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"))
            raise

    def _tell(self, problem: str | None) -> None:
        """Beside another error, which must not be hidden by this one."""
        if problem is not None:
            complain(problem)


mlflow_pipeline_hook = MlflowPipelineHook()
