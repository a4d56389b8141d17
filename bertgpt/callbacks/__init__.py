"""What runs during training beside the steps: validation, benchmarks, samples."""
