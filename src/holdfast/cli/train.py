"""``holdfast train``: train under attack, certify the gap to the best possible, write the report."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from holdfast._record import destination
from holdfast.config.commands import TrainCommand
from holdfast.config.schema import RunConfig, names_code, to_dict
from holdfast.record.folder import RUN, output_folder, process_number, written_in


def run(argv: Sequence[str]) -> int:
    """Read, check, build, train, show."""
    from holdfast.config.reading import read

    command, given = read(TrainCommand, _to_resume(argv))
    if command.print_config:
        from holdfast._files import yaml_text

        print(yaml_text(to_dict(command.run)), end="")
        return 0
    return _train(command, asked=given.get("out"))


def _train(command: TrainCommand, *, asked: str | None) -> int:
    # of several processes the first one speaks and chooses; the others must not take its folder for occupied
    first = process_number() == 0
    resume, overwrite, file = command.resume, command.overwrite, command.config
    if resume and not asked and file and file.name == RUN and (file.parent / "checkpoints").is_dir():
        asked = str(
            destination(file.parent)
        )  # the run lies where its file does, wherever it was started from
    out = output_folder(command.run, asked=asked, resume=resume, overwrite=overwrite, check=first)
    config = replace(command.run, out=str(out))

    from holdfast.config.build import build
    from holdfast.jobs.train import train

    job = build(config)
    settings = {
        **job.options,
        "out": out,
        "resume": resume,
        "overwrite": overwrite,
        "progress": first and not command.quiet,
        "config": to_dict(config),
    }
    try:
        train(job.model, job.data, job.threat, **settings)
    except (KeyboardInterrupt, SystemExit) as error:
        error.add_note(_interrupted(out, config, overwrite=overwrite))
        raise
    if first:
        _show(out)
    return 0


def _to_resume(argv: Sequence[str]) -> list[str]:
    """The command line, its run's configuration that of the run begun to replace it, where there is such a
    one to resume.
    """
    if "--resume" not in argv:
        return list(argv)
    return [
        str(written_in(Path(word).parent, resume=True, overwrite=False) / RUN)
        if Path(word).name == RUN
        else word
        for word in argv
    ]


def _interrupted(out: Path, config: RunConfig, *, overwrite: bool) -> str:
    work = written_in(out, resume=True, overwrite=False)
    if (work / "checkpoints" / "last.pt").exists() and (work != out or not overwrite):
        trusted = " --trusted" if names_code(config) else ""
        return f"interrupted; go on where {out} stands with `holdfast train {out / RUN} --resume{trusted}`."
    return "interrupted before anything was reached; start the command again."


def _show(out: Path) -> None:
    """The outcome on the terminal; the run's page, written now where training did not."""
    from holdfast.cli.terminal import console, show_run

    page = out / "report.html"
    if not page.exists():
        from holdfast.report import write_report

        write_report([out], page)
    show_run(console(), out, page)
