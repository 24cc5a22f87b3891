//! borgctl: the config language, the commands, a local cell.
