//! DECIDES: which task goes where, and why not.
