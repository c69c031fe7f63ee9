//! Helpers for benches that observe a process from outside.

#![allow(dead_code, reason = "each bench uses a part of it")]

pub(crate) mod child;
pub(crate) mod edits;
pub(crate) mod live;
pub(crate) mod table;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

/// The resource usage of a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// CPU seconds so far.
    pub(crate) cpu: f64,
    /// Peak memory so far, in MB.
    pub(crate) peak_mb: f64,
    /// Current memory, in MB.
    pub(crate) resident_mb: f64,
    pub(crate) ended: bool,
}

/// Returns the usage of a process; `self` is this one. A zombie still has its CPU seconds, but no memory.
pub(crate) fn usage(process: &str) -> Usage {
    let read = |file: &str| {
        fs::read_to_string(format!("/proc/{process}/{file}")).expect("the process is there")
    };
    let stat = read("stat");
    let (_, stat) = stat.rsplit_once(')').expect("a name in parentheses");
    let stat: Vec<&str> = stat.split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().map(|at| stat[*at].parse::<u64>().expect("ticks")).sum();
    let status = read("status");
    let mb = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0 kB");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") * 1024.0 / 1e6
    };
    Usage {
        // Linux counts CPU time for others in hundredths of a second.
        cpu: ticks as f64 / 100.0,
        peak_mb: mb("VmHWM:"),
        resident_mb: mb("VmRSS:"),
        ended: stat[0] == "Z",
    }
}

/// Returns the number of bytes that a process has read; 0 if it has ended.
pub(crate) fn io_read(process: &str) -> u64 {
    let io = fs::read_to_string(format!("/proc/{process}/io")).unwrap_or_default();
    let read = io.lines().find_map(|line| line.strip_prefix("rchar: "));
    read.and_then(|read| read.parse().ok()).unwrap_or(0)
}

/// Returns the sum of the metrics whose lines start with `metric`; `None` if there is no response or no such line.
pub(crate) fn scrape(http: &str, metric: &str) -> Option<f64> {
    let mut stream = TcpStream::connect(http).ok()?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n\r\n");
    let mut text = String::new();
    stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_string(&mut text)).ok()?;
    let of = |line: &str| line.strip_prefix(metric)?.rsplit(' ').next()?.parse::<f64>().ok();
    text.lines().filter_map(of).reduce(|a, b| a + b)
}

/// Returns a free address.
pub(crate) fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").to_string()
}
