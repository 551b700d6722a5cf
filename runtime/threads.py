"""Names of threads that others ask for."""

READER = "reader"  # decodes; the only one that may be left behind, waiting for a silent pipe
