"""Objectives, optimizers, schedules, distributed training, device, checkpoints, run directory, metrics."""
