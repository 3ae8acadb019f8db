from skipcache.engines.engine import Engine, Features, StepResult, beside
from skipcache.engines.proof import lost_effects, same_output
from skipcache.engines.recent import Recent

__all__ = ["Engine", "Features", "Recent", "StepResult", "beside", "lost_effects", "same_output"]
