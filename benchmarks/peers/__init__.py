"""`skipcache bench --peers`: other caches, and the plain model with fewer steps, at the compute of skipcache's own."""
