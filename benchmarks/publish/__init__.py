"""`skipcache publish`: the tables in the docs are written out of result files, so that no figure is copied by hand."""
