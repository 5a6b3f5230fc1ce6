"""Training: the loop that every technique with gradients uses, and what it is trained on."""
