"""The path of a request: tasks -> inputs -> sequence -> plan -> stream -> decoding."""
