from skipcache.engines.hooks.engine import HookEngine
from skipcache.engines.hooks.runs import CachedRun, FullRun, WiringObserver
from skipcache.engines.hooks.wiring import Wiring

__all__ = ["CachedRun", "FullRun", "HookEngine", "Wiring", "WiringObserver"]
