"""Evaluation: what attacks cannot break, what bounds can prove, and how far either can be trusted."""

from holdfast.evaluation.cascade import evaluate as evaluate
from holdfast.evaluation.result import ClassAccuracy as ClassAccuracy
from holdfast.evaluation.result import Evaluation as Evaluation
from holdfast.evaluation.result import Stage as Stage
from holdfast.evaluation.suites import SUITES as SUITES
