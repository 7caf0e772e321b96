"""Raw content to features: files are decoded in processes of their own, then encoded in batches of equal cost."""
