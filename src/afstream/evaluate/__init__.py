"""Measuring what a model shows: an oracle for the pocket world, and reports made with it."""

from afstream.evaluate.cases import Case, Sizes, make_cases
from afstream.evaluate.oracle import READABLE, Oracle, Reading, read
from afstream.evaluate.records import Player, Record, RecordBook, measure
from afstream.evaluate.report import Quality, markdown, summarise
from afstream.evaluate.validate import Accuracy, oracle_accuracy

__all__ = [
    "READABLE",
    "Accuracy",
    "Case",
    "Oracle",
    "Player",
    "Quality",
    "Reading",
    "Record",
    "RecordBook",
    "Sizes",
    "make_cases",
    "markdown",
    "measure",
    "oracle_accuracy",
    "read",
    "summarise",
]
