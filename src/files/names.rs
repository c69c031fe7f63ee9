//! Names of files: patterns, and those that readers of directories leave out.

/// Whether a name is a pattern.
pub(super) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// Whether a name is one of those that other readers of directories leave out, too: `.part.crc`, `_SUCCESS`.
pub(super) fn is_hidden(name: &[u8]) -> bool {
    matches!(name.first(), Some(b'.' | b'_'))
}
