"""Assembly of whole recipes, for training and for the use of trained models."""
