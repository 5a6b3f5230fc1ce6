"""Who can be asked: a model in this process, a GGUF file in llama.cpp, a server. One file each."""
