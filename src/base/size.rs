//! Sizes as people write them.

/// Reads a size such as `10MB`, `512KiB` or `1.5M`, in bytes: units are powers of 1000, those with an `i`
/// powers of 1024, and a bare number is bytes.
pub fn parse(text: &str) -> Result<u64, String> {
    parse_size::parse_size(text)
        .map_err(|_| format!("\"{text}\" is not a size (write it like 32MiB, 1GB or 65536)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_units_or_as_bytes() {
        for (text, bytes) in [
            ("65536", 65_536),
            ("0", 0),
            ("32MiB", 32 << 20),
            ("1 GB", 1_000_000_000),
            ("512k", 512_000),
            ("512KiB", 512 << 10),
            ("2gib", 2 << 30),
            ("1.5M", 1_500_000),
            ("0.5 kB", 500),
            ("10mb", 10_000_000),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for bad in ["", "MiB", "-1", "1.5.5MB", "1 MiBB", "99999999999GiB", "1é", "1,5 MB"] {
            let error = parse(bad).expect_err(bad);
            assert!(error.starts_with(&format!("\"{bad}\" is not a size")), "{error}");
        }
    }
}
