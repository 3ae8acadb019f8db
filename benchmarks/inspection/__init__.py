"""`skipcache inspect`: what is found in a model of diffusers, before any weight is loaded."""
