"""The reference denoisers: small, trained from scratch, shipped. One module each.

`reference.py` says what a reference is, `registry.py` finds one by name, `train.py` trains them and their judges.
The data is in `data`, the classifiers of samples in `judges`; neither knows the denoisers.
"""
