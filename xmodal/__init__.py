"""xmodal: training of image-text similarity at scale."""
