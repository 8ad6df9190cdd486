"""Networks: functions of tensors, independent of probability distributions."""
