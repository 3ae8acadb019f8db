"""The command line: `main.py` runs a command, and each command is one file. Nothing heavy is imported here.

A command is its settings class and a function that takes the settings; the parser is made from the settings' fields.
"""
