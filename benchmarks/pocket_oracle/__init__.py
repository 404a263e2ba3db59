"""Scores of the pocket model: an oracle reads what its videos show, and reports add that up."""

from pocket_oracle.cases import Case, Sizes, make_cases
from pocket_oracle.oracle import READABLE, Oracle, Reading, read
from pocket_oracle.records import Player, Record, RecordBook, measure
from pocket_oracle.report import Quality, markdown, summarise
from pocket_oracle.validate import oracle_accuracy

__all__ = [
    "READABLE",
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
