"""What a model does not know: aleatoric and epistemic uncertainty."""
