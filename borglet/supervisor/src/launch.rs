//! Fills in what a task of the target leaves open.
