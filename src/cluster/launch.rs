//! Derives the role of this process from the workers and processes that a command requests.

use std::collections::BTreeSet;
use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};

use super::member;
use super::role::Cluster;
use super::secret::Secret;
use super::supervisor::{self, Work};
use crate::base::error::{Exit, Failure, Outcome};

/// The workers and processes that a command requests.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Worker threads of each process.
    pub workers: usize,
    /// Processes in all.
    pub processes: usize,
    /// The number of this process. `None`: this one starts all processes, on this machine.
    pub process: Option<usize>,
    /// A file with the addresses of the processes, one host:port a line.
    pub hostfile: Option<PathBuf>,
    /// Whether this process may listen at an address that other machines reach.
    pub listen_any: bool,
    /// A file with the secret that all processes must know.
    pub secret: Option<PathBuf>,
    /// The time without a heartbeat after which a process counts as dead.
    pub hang_timeout: Duration,
    /// Whether to restart all processes of this machine when one of them fails.
    pub restart: bool,
}

/// Minimum of `hang_timeout`: on a busy machine a healthy process may be silent for a shorter time.
const HANG_TIMEOUT_MIN: Duration = Duration::from_secs(1);

fn usage(error: anyhow::Error) -> Failure {
    Failure::new(Exit::Usage, error)
}

impl Plan {
    fn check(&self) -> Result<(), Failure> {
        if self.workers == 0 || self.processes == 0 {
            return Err(usage(anyhow!("at least one worker and one process are needed")));
        }
        if self.hang_timeout < HANG_TIMEOUT_MIN {
            return Err(usage(anyhow!(
                "--hang-timeout must be at least {} s: on a busy machine a healthy process may be silent for less",
                HANG_TIMEOUT_MIN.as_secs()
            )));
        }
        if self.restart && self.process.is_some() {
            return Err(usage(anyhow!(
                "--restart restarts all processes, and --process runs only one of them: leave the restart \
                 to the program that starts each process, such as systemd"
            )));
        }
        if self.listen_any && self.secret.is_none() {
            return Err(usage(anyhow!(
                "--listen-any needs --cluster-secret FILE, the same secret for all processes: without it \
                 every machine that reaches the address could take part in the computation, or end it; \
                 make one by openssl rand -hex 32"
            )));
        }
        match (self.process, &self.hostfile) {
            (Some(process), _) if process >= self.processes => Err(usage(anyhow!(
                "there is no process {process}: -n {} numbers the processes from 0 to {}",
                self.processes,
                self.processes - 1
            ))),
            (Some(_), None) if self.processes > 1 => {
                Err(usage(anyhow!("--process selects a line of the host file: give --hostfile")))
            }
            (None, Some(_)) => Err(usage(anyhow!(
                "--hostfile lists all processes: give --process to select the one to run"
            ))),
            _ => Ok(()),
        }
    }

    /// Returns the cluster of a process without a supervisor.
    fn cluster(&self) -> Result<Cluster, Failure> {
        let mut cluster = match (self.process, &self.hostfile) {
            (Some(process), Some(file)) if self.processes > 1 => {
                let hosts = read_host_file(file, self.processes)?;
                if !self.listen_any {
                    reject_public(&hosts[process])?;
                }
                Cluster { process, hosts, ..Cluster::alone(self.workers) }
            }
            _ => Cluster::alone(self.workers),
        };
        cluster.secret = self.secret.as_deref().map(Secret::read).transpose()?;
        Ok(cluster)
    }
}

/// Runs a part of a computation, or starts and supervises all of its processes.
///
/// With plain `-n N`, or with `--restart`, this process is the supervisor: it starts this program again with the same
/// arguments for each process, which calls this function too and reads its role.
pub fn launch(plan: &Plan, role: impl FnOnce(Cluster) -> Outcome) -> Outcome {
    launch_to(Work::Together, plan, role)
}

/// Like [`launch`], for work that falls into parts, one for each process: the processes do not communicate, each
/// ends when its part is done, and the interrupt key reaches all of them.
pub fn launch_apart(plan: &Plan, role: impl FnOnce(Cluster) -> Outcome) -> Outcome {
    launch_to(Work::Apart, plan, role)
}

fn launch_to(work: Work, plan: &Plan, role: impl FnOnce(Cluster) -> Outcome) -> Outcome {
    plan.check()?;
    if let Some(child) = member::read_role()? {
        return role(child.cluster(plan.workers)?);
    }
    // The processes started here get a drawn secret, not that of the file; but a mistake in the file is reported.
    let cluster = plan.cluster()?;
    if plan.process.is_none() && (plan.processes > 1 || plan.restart) {
        return supervisor::supervise(plan.processes, plan.hang_timeout, plan.restart, work);
    }
    role(cluster)
}

/// Reads the addresses of the processes.
fn read_host_file(file: &Path, processes: usize) -> Result<Vec<String>, Failure> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("reading the host file \"{}\"", file.display()))
        .map_err(|error| Failure::new(Exit::NoInput, error))?;
    parse_hosts(&text, processes)
        .with_context(|| format!("in the host file \"{}\"", file.display()))
        .map_err(usage)
}

fn parse_hosts(text: &str, processes: usize) -> anyhow::Result<Vec<String>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let hosts: Vec<String> = lines.map(str::to_owned).collect();
    let mut seen = BTreeSet::new();
    for host in &hosts {
        let Some((name, port)) = host.rsplit_once(':').filter(|(name, _)| !name.is_empty()) else {
            return Err(anyhow!("\"{host}\" is not host:port"));
        };
        // An IPv6 address has colons of its own.
        if name.contains(':') && !(name.starts_with('[') && name.ends_with(']')) {
            return Err(anyhow!("\"{host}\" is not host:port: write [{host}]:PORT if it is IPv6"));
        }
        if port.parse::<u16>().ok().is_none_or(|port| port == 0) {
            return Err(anyhow!("\"{port}\" of \"{host}\" is not a port: give one of 1 to 65535"));
        }
        if !seen.insert(host) {
            return Err(anyhow!("\"{host}\" is named twice: each process needs its own port"));
        }
    }
    if hosts.len() != processes {
        return Err(anyhow!(
            "it lists {} processes, but -n is {processes}: give each process one line host:port",
            hosts.len()
        ));
    }
    Ok(hosts)
}

/// Rejects an address of this process that other machines may reach.
fn reject_public(own: &str) -> Result<(), Failure> {
    let addresses = own
        .to_socket_addrs()
        .with_context(|| format!("resolving the address of this process, \"{own}\""))?;
    for address in addresses {
        if !address.ip().is_loopback() {
            return Err(usage(anyhow!(
                "other machines may reach \"{own}\", and connections between processes are not \
                 encrypted: give --listen-any and --cluster-secret FILE if that network is private"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_file_with_a_wrong_line_is_rejected() {
        let good = "\n 127.0.0.1:4001 \n[::1]:4002\nnode-3.example:65535\n";
        let hosts = ["127.0.0.1:4001", "[::1]:4002", "node-3.example:65535"];
        assert_eq!(parse_hosts(good, 3).unwrap(), hosts);
        for (text, message) in [
            ("a:1\n", "lists 1 processes, but -n is 2"),
            ("a:1\nb:2\nc:3", "lists 3 processes, but -n is 2"),
            ("a:1\nlocalhost", "\"localhost\" is not host:port"),
            ("a:1\n:5", "\":5\" is not host:port"),
            ("a:1\n::1:5", "write [::1:5]:PORT"),
            ("a:1\nb:0", "\"0\" of \"b:0\" is not a port"),
            ("a:1\nb:65536", "\"65536\" of \"b:65536\" is not a port"),
            ("a:1\nb:http", "\"http\" of \"b:http\" is not a port"),
            ("a:1\n# b:two", "\"two\" of \"# b:two\" is not a port"),
            ("a:1\na:1", "\"a:1\" is named twice"),
        ] {
            let error = parse_hosts(text, 2).unwrap_err().to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
    }

    #[test]
    fn address_that_other_machines_reach_is_rejected() {
        for own in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1"] {
            assert!(reject_public(own).is_ok(), "{own}");
        }
        for own in ["0.0.0.0:1", "192.0.2.1:1", "[::]:1", "[2001:db8::1]:1"] {
            assert_eq!(reject_public(own).unwrap_err().exit, Exit::Usage, "{own}");
        }
    }
}
