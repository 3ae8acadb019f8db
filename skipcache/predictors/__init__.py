from skipcache.predictors.base import Prediction, Predictor, Total, remembered, remembering
from skipcache.predictors.hold import Hold
from skipcache.predictors.residual import Damped, Delta, Forecast

__all__ = ["Damped", "Delta", "Forecast", "Hold", "Prediction", "Predictor", "Total", "remembered", "remembering"]
