from skipcache.runtime.corrections import Corrections, added, correctable, main_output, terms_of
from skipcache.runtime.flops import Costs, Uncounted
from skipcache.runtime.forward import CachedForward
from skipcache.runtime.report import Report
from skipcache.runtime.settings import Request, Settings
from skipcache.runtime.step import StepRunner

__all__ = [
    "CachedForward",
    "Corrections",
    "Costs",
    "Report",
    "Request",
    "Settings",
    "StepRunner",
    "Uncounted",
    "added",
    "correctable",
    "main_output",
    "terms_of",
]
