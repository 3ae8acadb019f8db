"""Programs that people sample with: one file each. Nothing here is imported unless such a program asks for it."""
