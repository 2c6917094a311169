"""Run folders: everything a run leaves behind, readable without executing code."""

from holdfast.runs.run import Run as Run
from holdfast.runs.run import RunWriter as RunWriter
from holdfast.runs.run import read_metrics as read_metrics
from holdfast.runs.run import read_summary as read_summary
