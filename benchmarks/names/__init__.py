"""What can be named on the command line: models, samplers, predictors, presets and methods, one list for each.

A row holds all that belongs to a name: its module, its label in tables, its style in pictures. So a new predictor or
method is one row here, and nothing else has to be kept in step. Nothing heavy is imported: the options read these
lists before a command starts.
"""
