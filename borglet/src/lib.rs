//! DOES: the agent of one machine, and the shim that holds each task.
