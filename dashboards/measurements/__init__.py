"""What the pages ask a model: functions of plain hashable arguments, which call the library."""
