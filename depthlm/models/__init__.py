"""Vision-language models: the nano model made locally, and loading, adapting and merging of any other."""
