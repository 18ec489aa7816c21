"""The spatial encoder: a frozen depth ViT whose features a vision-language model reads by cross-attention."""
