"""The reference denoisers: small, trained from scratch, shipped. One module each.

`reference.py` says what a reference is, `registry.py` finds one by name, `train.py` trains them, their judges, and the
autoencoder whose latents some of them denoise.
The data is in `data`, the classifiers of samples in `judges`; neither knows the denoisers.
"""
