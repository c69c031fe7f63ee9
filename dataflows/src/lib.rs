//! From traffic and limits to violations, incrementally.
pub mod time;
pub mod types;
