"""Functions that Spark runs in the driver's own Python: they get the packages of the session's environment."""
