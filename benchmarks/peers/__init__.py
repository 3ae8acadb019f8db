"""`skipcache peers`: other caches, and the plain model with fewer steps, at the compute of skipcache's own.

A method is a class with the four functions of `method.Method`, and a row of `names/peers.py`.
"""
