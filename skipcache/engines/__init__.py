from skipcache.engines.engine import Engine, Features, StepResult, beside
from skipcache.engines.order import Order
from skipcache.engines.proof import COUNTS, same_output
from skipcache.engines.recent import Recent

__all__ = ["COUNTS", "Engine", "Features", "Order", "Recent", "StepResult", "beside", "same_output"]
