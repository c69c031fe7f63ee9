//! Gives each build the digest of its sources: processes of one computation must be of one build.

use std::path::Path;
use std::{fs, io};

/// The files and directories that decide how the program computes.
const SOURCES: [&str; 5] =
    ["Cargo.lock", "Cargo.toml", "src", "dataflows/Cargo.toml", "dataflows/src"];

/// FNV-1a of 64 bits: the same with every version of the compiler, on every machine.
struct Digest(u64);

impl Digest {
    fn add(&mut self, bytes: &[u8]) {
        // The length comes first, so that no byte can move from one text to the next unnoticed.
        let length = (bytes.len() as u64).to_be_bytes();
        for byte in length.iter().chain(bytes) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Adds a file, or all files below a directory in the order of their names. The path of the package is
    /// left out: it differs between machines.
    fn add_path(&mut self, name: &str) -> io::Result<()> {
        let path = Path::new(name);
        if path.is_dir() {
            let mut names = Vec::new();
            for entry in fs::read_dir(path)? {
                names.push(format!("{name}/{}", entry?.file_name().to_string_lossy()));
            }
            names.sort_unstable();
            return names.iter().try_for_each(|name| self.add_path(name));
        }
        self.add(name.as_bytes());
        self.add(&fs::read(path)?);
        Ok(())
    }
}

fn main() -> io::Result<()> {
    let mut digest = Digest(0xcbf2_9ce4_8422_2325);
    // In a package from a registry the other crate is elsewhere; Cargo.lock has its checksum then.
    for name in SOURCES.into_iter().filter(|name| Path::new(name).exists()) {
        println!("cargo::rerun-if-changed={name}");
        digest.add_path(name)?;
    }
    let build = (digest.0 >> 32) ^ (digest.0 & 0xffff_ffff);
    println!("cargo::rustc-env=FLOODMARK_BUILD={build:08x}");
    Ok(())
}
