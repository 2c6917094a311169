"""Write the tables of ``holdfast.record.schema`` into ``docs/explanations/runs.md``: ``python docs/schema_tables.py``."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from holdfast.record import schema

PAGE = Path(__file__).parent / "explanations" / "runs.md"
BEGIN, END = "<!-- schema: written by docs/schema_tables.py -->\n", "<!-- end of schema -->\n"
WORDS = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false"}
FILES = {
    "Summary": "`summary.json`",
    "EpochFigures": "A line of `metrics.jsonl`",
    "EvaluationFigures": "`evaluation/evaluation.json`, and `evaluation` in `summary.json`",
}


def tables() -> str:
    """A table for each file and each table in it, entry by entry."""
    kinds = {name: kind for name, kind in vars(schema).items() if hasattr(kind, "__dataclass_fields__")}
    own = {name: kind for name, kind in kinds.items() if kind.__module__ == schema.__name__}
    order = [*FILES, *(name for name in own if name not in FILES)]
    return "\n".join(_table(own[name], FILES.get(name, f"`{name}`")) for name in order)


def _table(kind: Any, title: str) -> str:
    about = "" if kind.__name__ in FILES else f"\n\n{kind.__doc__.replace('``', '`')}"
    rows = [
        f"| `{entry.name}` | {_type(entry.type)} | {entry.metadata['unit']} | {entry.metadata['says']}{_when(entry)} |"
        for entry in fields(kind)
    ]
    return "\n".join(
        [f"### {title}{about}\n", "| entry | type | unit | what it says |", "|---|---|---|---|", *rows, ""]
    )


def _when(entry: Any) -> str:
    return "; left out where there is none" if entry.metadata["optional"] else ""


def _type(kind: Any) -> str:
    """The type in words: ``tuple[PartCounts, ...] | None`` is a list of `PartCounts`."""
    text = re.sub(
        r"\b\w+\.",
        "",
        kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind),
    )
    text = re.sub(r" \| None|Optional\[(.*)\]", r"\1", text)
    text = re.sub(r"Annotated\[float, '([^']*)'\]", r"number \1", text)
    if row := re.fullmatch(r"tuple\[(.*), \.\.\.\]", text):
        return f"list of {_word(row[1])}"
    if pair := re.fullmatch(r"tuple\[(.*), (.*)\]", text):
        return f"pair of {_word(pair[1])}"
    if table := re.fullmatch(r"dict\[str, (.*)\]", text):
        return f"{_word(table[1])} by name"
    if choice := re.fullmatch(r"Literal\[(.*)\]", text):
        return choice[1].replace("'", "`")
    return _word(text)


def _word(text: str) -> str:
    return WORDS.get(text, text if " " in text else f"`{text}`")


def written(page: str) -> str:
    """The page with its tables as the schema has them."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{tables()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
