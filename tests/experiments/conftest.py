"""One thread, for studies are small and compared to the last bit."""

import torch

torch.set_num_threads(1)
