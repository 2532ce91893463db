"""Times this project's programs and plain PyTorch in turn."""
