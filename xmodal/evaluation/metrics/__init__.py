"""Metrics: functions of tensors, which know neither methods nor recipes."""
