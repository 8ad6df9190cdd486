"""Networks: functions of tensors that know no probability."""
