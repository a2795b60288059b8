"""Formats of pretrained dual encoders, in and out, one file each."""
