//! The simulated world; Fauxmaster and cellsim.
