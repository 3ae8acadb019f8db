from skipcache.calibration.calibrate import calibrate
from skipcache.calibration.calibration import Calibration

__all__ = ["Calibration", "calibrate"]
