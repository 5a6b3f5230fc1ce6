"""Writers of what stock runtimes load: GGUF for llama.cpp, Hugging Face folders for transformers and vLLM."""
