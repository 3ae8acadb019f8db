"""How a small model is trained, and how its weights are kept. Knows no denoiser and no classifier: these are tasks."""
