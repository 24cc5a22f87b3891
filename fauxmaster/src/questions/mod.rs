//! What can be asked. Each module is one question: what it means, and how it is answered.

pub mod compact;
pub mod fit;
