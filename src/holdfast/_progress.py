"""Progress with time left, on anything that may take over two seconds; silent where nobody looks."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

from holdfast._console import Aside


class Progress:
    """Bars on standard error; a plain line an epoch now and then when that is no terminal."""

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self.console = Aside(stderr=True)
        self.live = enabled and sys.stderr.isatty()
        self._bar: Bar | None = None
        self._task: Any = None

    @contextmanager
    def training(self, steps: int, done: int = 0) -> Iterator[None]:
        """The bar of training: steps, time spent, time left, the last loss."""
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Bar(*columns, console=self.console, disable=not self.live, transient=True) as bar:
            self._bar, self._task = bar, bar.add_task("training", total=steps, completed=done, note="")
            yield
        self._bar = None

    def step(self, done: int, loss: float) -> None:
        """One training step finished."""
        if self._bar is not None and self.live:
            self._bar.update(self._task, completed=done, note=f"loss {loss:.4f}")

    def epoch(self, epoch: int, loss: float, robust: float | None) -> None:
        """One epoch finished: a line where there is no live bar, at epochs 1, 2, 4, ... and every tenth."""
        if self.enabled and not self.live and (epoch & (epoch - 1) == 0 or epoch % 10 == 0):
            tail = "" if robust is None else f", robust accuracy {robust:.1%} on validation"
            self.console.print(f"epoch {epoch}: loss {loss:.4f}{tail}", highlight=False)

    @contextmanager
    def stage(self, what: str) -> Iterator[None]:
        """A stage of unknown length."""
        if self.enabled and not self.live:
            self.console.print(f"{what} ...", highlight=False)
        if self.live:
            with self.console.status(what):
                yield
        else:
            yield

    def say(self, text: str) -> None:
        """One line, above the bar where there is one."""
        if self.enabled:
            self.console.print(text, highlight=False)

    @contextmanager
    def named(self) -> Iterator[Callable[[str, int, int], None]]:
        """Stages that come one after another, each reporting (its name, done, to do)."""
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Bar(*columns, console=self.console, disable=not self.live, transient=True) as bar:
            tasks: dict[str, Any] = {}

            def report(name: str, done: int, total: int) -> None:
                if name not in tasks:
                    tasks[name] = bar.add_task(name, total=total)
                    if not self.live:
                        self.say(f"{name} ...")
                bar.update(tasks[name], completed=done, total=total)

            yield report

    @contextmanager
    def counted(self, what: str) -> Iterator[Callable[[float], None]]:
        """A stage that reports which share of it is done."""
        if not self.live:
            with self.stage(what):
                yield lambda share: None
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Bar(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task(what, total=1.0)
            yield lambda share: bar.update(task, completed=share)
