//! From traffic and limits to violations, incrementally.
pub mod reference;
pub mod time;
pub mod types;
