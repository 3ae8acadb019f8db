from skipcache.engines.engine import Engine, Features, StepResult, beside
from skipcache.engines.order import Order
from skipcache.engines.proof import lost_effects, same_output
from skipcache.engines.recent import Recent

__all__ = ["Engine", "Features", "Order", "Recent", "StepResult", "beside", "lost_effects", "same_output"]
