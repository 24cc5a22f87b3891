//! DECIDES on one machine: which tasks to start, stop and restart.
