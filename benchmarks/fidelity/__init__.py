"""`skipcache bench`: the speed and the fidelity of a reference denoiser, at intervals and with predictors."""
