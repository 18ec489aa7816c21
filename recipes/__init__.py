"""Training: fine-tuning, reinforcement, and the studies made with them."""
