"""One diagnosis for page, terminal, doctor and Python: a pure function from the figures of a record to
findings.
"""

from holdfast.diagnosis.finding import Finding as Finding
from holdfast.diagnosis.finding import Findings as Findings
from holdfast.diagnosis.finding import Remedy as Remedy
from holdfast.diagnosis.finding import Value as Value
from holdfast.diagnosis.finding import summed_up as summed_up
from holdfast.diagnosis.finding import verdict as verdict
from holdfast.diagnosis.known import Known as Known
from holdfast.diagnosis.rules import NOTHING as NOTHING
from holdfast.diagnosis.rules import diagnose as diagnose
