"""Pages from their templates: everything users typed is escaped, and a figure a template misses is an
error.
"""

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from holdfast import _formats as formats
from holdfast.diagnosis import NOTHING


def render(template: str, **values: Any) -> str:
    """The page that a file of ``templates`` describes, as text."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("holdfast.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("number", "setting", "percent", "rough_percent", "count", "duration", "moment"):
        environment.filters[name] = getattr(formats, name)
    environment.globals["not_measured"] = formats.NOT_MEASURED
    environment.globals["nothing"] = NOTHING
    return environment
