"""What each command can be asked for: one settings class per command, one field per option.

A field says everything about its option: help, choices, limits (`option.py`). The parser is made from the fields
(`cli/arguments.py`), and a bad value is refused as soon as the settings are made, before anything heavy is imported.
An error says what was expected, what was given, and what to do.
"""
