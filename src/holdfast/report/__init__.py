"""One self-contained page about one or several run folders. The report only reads."""

from holdfast.report.collect import RunPage as RunPage
from holdfast.report.collect import read_run as read_run
from holdfast.report.html import page as page
from holdfast.report.html import write_report as write_report
