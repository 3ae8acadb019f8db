"""How results reach a reader: tables, pictures, progress bars, JSON files. Knows nothing of what is shown."""
