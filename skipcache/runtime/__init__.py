from skipcache.runtime.client import Run, named_run
from skipcache.runtime.corrections import LARGEST, Corrections, added, correctable, main_output, terms_of
from skipcache.runtime.flops import Costs, Uncounted
from skipcache.runtime.forward import CachedForward
from skipcache.runtime.models import accelerated_in, forward_for, forwards_in
from skipcache.runtime.report import Report
from skipcache.runtime.settings import Request, Settings
from skipcache.runtime.step import StepRunner

__all__ = [
    "LARGEST",
    "CachedForward",
    "Corrections",
    "Costs",
    "Report",
    "Request",
    "Run",
    "Settings",
    "StepRunner",
    "Uncounted",
    "accelerated_in",
    "added",
    "correctable",
    "forward_for",
    "forwards_in",
    "main_output",
    "named_run",
    "terms_of",
]
