//! The whole product from outside: real masters, real borglets, the `borgctl` program, and the API
//! as any other client would call it.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test, and the panic says where")]

mod allocs;
mod api;
mod backup;
mod bad_input;
mod cell;
mod choices;
mod directories;
mod health;
mod identities;
mod isolation;
mod kinds;
mod machines;
mod maintenance;
mod masters;
mod names;
mod network;
mod ordinary_user;
mod overload;
mod packages;
mod past;
mod people;
mod plans;
mod privileges;
mod quota;
mod reclamation;
mod rescues;
mod subsets;
mod survival;
mod updates;
mod watch;
