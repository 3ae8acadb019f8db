"""`skipcache engines` and `gpu`: the time of full and cached steps under both engines, by the run and by the step."""
