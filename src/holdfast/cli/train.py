"""``holdfast train``: train under attack, certify the gap to the best possible, write the report."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from holdfast._record import destination
from holdfast.config.options import chosen, options_help, spelled
from holdfast.config.schema import RunConfig, names_code, to_dict
from holdfast.record.folder import RUN, output_folder, process_number, written_in

FLAGS = {
    "--resume": "go on with an interrupted run",
    "--overwrite": "replace the run that lies in --out, once the new one is finished",
    "--trusted": "run the code that the configuration file names by import path: only from a source you trust",
    "--quiet": "no progress bar",
    "--print-config": "print the complete configuration as YAML and stop",
    "--help": "show this help and stop",
}

USAGE = """usage: holdfast train [CONFIG.yaml] [options]

Train a network under attack, prove how far its loss is from the best robust loss of any network in the parameter
ball, and write a page that shows it. Options go over the file, the file over the defaults.

examples:
  holdfast train --data digits
  holdfast train --data digits --classes 3,8 --threat l2:0.3 --width 8000 --out runs/wide
  holdfast train --data path/to/mnist --batch-size 500 --optimizer adam --learning-rate 0.001
  holdfast train --data digits --network my_package.module:Net --network.init-args.hidden 64
  holdfast train --print-config > mine.yaml; holdfast train mine.yaml --seed 1
  holdfast train runs/wide/config.yaml            the same run again, in the next free folder
  holdfast train runs/wide/config.yaml --resume   go on where it was interrupted

The folder: --out must be new or empty (or see --resume, --overwrite); without --out the next free one is taken.
In a file a section may be one word (data: digits), and your own classes may be written as class_path and init_args."""


def run(argv: Sequence[str]) -> int:
    """Read, check, build, train, show."""
    if "--help" in argv or "-h" in argv:
        print(f"{USAGE}\n\n{options_help(FLAGS, chosen(argv))}")
        return 0
    spelled(argv, FLAGS)  # a mistyped option is refused before anything is imported to read its value

    from holdfast.config.reading import read_config

    config, given = read_config(_to_resume(argv), FLAGS)
    if given.get("print_config"):
        from holdfast._files import yaml_text

        print(yaml_text(to_dict(config)), end="")
        return 0
    return _train(config, given)


def _train(config: RunConfig, given: dict[str, object]) -> int:
    # of several processes the first one speaks and chooses; the others must not take its folder for occupied
    first = process_number() == 0
    asked, resume, overwrite = given.get("out"), bool(given.get("resume")), bool(given.get("overwrite"))
    file = Path(str(given.get("config") or ""))
    if resume and not asked and file.name == RUN and (file.parent / "checkpoints").is_dir():
        asked = destination(file.parent)  # the run lies where its file does, wherever it was started from
    out = output_folder(
        config, asked=str(asked) if asked else None, resume=resume, overwrite=overwrite, check=first
    )
    config = replace(config, out=str(out))
    quiet = bool(given.get("quiet")) or not first
    if not quiet:
        print(f"holdfast: {config.data.name}, {config.threat.spec}, into {out}", flush=True)

    from holdfast.config.build import build
    from holdfast.jobs.train import train

    job = build(config)
    settings = {
        **job.options,
        "out": out,
        "resume": resume,
        "overwrite": overwrite,
        "progress": not quiet,
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
