"""Settings of every test."""

import torch

# Tiny models gain nothing from more threads; on a busy machine these wait for each other at every operation.
torch.set_num_threads(1)
