from skipcache.engines.fx.engine import FxEngine
from skipcache.engines.fx.programs import Graphs, Options

__all__ = ["FxEngine", "Graphs", "Options"]
