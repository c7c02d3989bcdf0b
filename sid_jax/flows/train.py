"""`sid train`: an experiment of either kind, to its end."""

from pathlib import Path

from sid_jax.config import Experiment, TokenizerExperiment
from sid_jax.data.datasets import load
from sid_jax.flows import runs
from sid_jax.flows.evaluate import evaluate_retriever, is_judged
from sid_jax.flows.inspect import report_tokenizer
from sid_jax.flows.report import report_run
from sid_jax.flows.retriever import train_retriever
from sid_jax.flows.runs import Log
from sid_jax.flows.tokenizer import train_tokenizer
from sid_jax.train import hosts
from sid_jax.train.hosts import Lost, join, leave
from sid_jax.train.loop import Interrupted

__all__ = ["Interrupted", "Lost", "join", "leave", "train"]


def train(config: Experiment, folder: Path, log: Log) -> None:
    """Trains, judges and reports; a run that was stopped goes on.

    What a finished run has already is not done again. In many processes, all call it
    with a folder that all see.

    Raises:
      Interrupted: by a signal; what was done is saved.
      Lost: another of the processes has ended.
    """
    with hosts.together():
        _train(config, folder, log)


def _train(config: Experiment, folder: Path, log: Log) -> None:
    if not hosts.is_first():
        log = _be_silent
    if hosts.are_many():
        hosts.first(load, config.data)  # a built-in data set is built once
    if isinstance(config, TokenizerExperiment):
        train_tokenizer(config, folder, log)
        hosts.first(_report_tokenizer, folder, log)
    else:
        train_retriever(config, folder, log)
        if not hosts.agree(is_judged(folder)):
            evaluate_retriever(folder, log)
        hosts.first(_report_retriever, folder)
    log(f"report: {folder / runs.REPORT}")


def _report_tokenizer(folder: Path, log: Log) -> None:
    report = folder / runs.REPORT
    if not runs.is_current(report, folder / runs.SIDS, folder / runs.METRICS):
        report_tokenizer(folder, log)


def _report_retriever(folder: Path) -> None:
    report = folder / runs.REPORT
    if not runs.is_current(report, folder / runs.SAMPLES, folder / runs.METRICS):
        report_run(folder, report)


def _be_silent(line: str) -> None:
    """The first process speaks for all."""
