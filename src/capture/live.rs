//! Packets from a network interface, as they pass.
//!
//! Frames go through the same rules as those of a file. Reading never blocks: waiting is by poll(2),
//! since libpcap's own waiting does not return on an idle link (with TPACKET_V3 its time-out only begins
//! with a packet). The kernel hands frames over in blocks, each at the latest [`BLOCK_MS`] after its
//! first frame; its immediate mode, which would hand over each frame by itself, costs four times as
//! much.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pcap::{Active, Capture, Device, Precision};

use super::LinkType;
use super::packet::Packet;
use super::reader::{count_unread, judge};
use super::tally::Tally;
use super::time::{EventTime, Timing};
use crate::base::error::{Exit, Failure};
use crate::base::quote::Quoted;

/// Longest time for which the kernel may retain frames to fill a block, in milliseconds.
pub const BLOCK_MS: u16 = 100;

/// Frames taken in one call, so that the caller gets to look around.
const FRAMES_AT_ONCE: usize = 4096;

/// Settings of a capture from an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The name of the interface.
    pub interface: String,
    /// Filter of packets, in the language of libpcap (BPF); `None`: all packets.
    pub filter: Option<String>,
    /// Maximum number of bytes of each frame that the kernel copies. Headers are enough.
    pub snaplen: u32,
    /// Bytes of frames that the kernel buffers while this process is busy.
    pub buffer: u32,
    /// Also take frames that are for other stations.
    pub promiscuous: bool,
}

/// Reason why a capture could not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// There is no such interface.
    #[error("there is no interface {}; there are {existing}", Quoted(.interface))]
    NoSuchInterface {
        /// The name given for the interface.
        interface: String,
        /// The names of the existing interfaces.
        existing: String,
    },
    /// This process may not capture.
    #[error(
        "no right to capture on {}: run as root, or once: sudo setcap \
         cap_net_raw,cap_net_admin=eip {program}",
        Quoted(.interface)
    )]
    NoPermission {
        /// The name of the interface.
        interface: String,
        /// The path of this program.
        program: String,
    },
    /// The filter is not valid.
    #[error("filter {} can't be used on {}: {reason}", Quoted(.filter), Quoted(.interface))]
    Filter {
        /// The filter.
        filter: String,
        /// The name of the interface.
        interface: String,
        /// The error of libpcap.
        reason: String,
    },
    /// Frames of the interface have a link type that is not supported.
    #[error(
        "{} has frames of link type {number} ({name}), which are not read; capture on another \
         interface, such as \"any\"",
        Quoted(.interface)
    )]
    LinkType {
        /// The name of the interface.
        interface: String,
        /// The number of the link type.
        number: i32,
        /// Its name.
        name: String,
    },
    /// The interface can't be opened for another reason.
    #[error("opening interface {}: {reason}", Quoted(.interface))]
    Open {
        /// The name of the interface.
        interface: String,
        /// The error of libpcap.
        reason: String,
    },
    /// The interface was there, and can't be read any more.
    #[error("interface {} can't be read any more: {reason}", Quoted(.interface))]
    Gone {
        /// The name of the interface.
        interface: String,
        /// The error of libpcap.
        reason: String,
    },
    /// The interfaces can't be listed.
    #[error("listing the interfaces: {reason}")]
    List {
        /// The error of libpcap.
        reason: String,
    },
}

impl LiveError {
    /// The exit code of a command that ends with it.
    pub fn exit(&self) -> Exit {
        match self {
            LiveError::NoSuchInterface { .. } => Exit::NoInput,
            LiveError::NoPermission { .. } => Exit::NoPermission,
            LiveError::Filter { .. } => Exit::Usage,
            LiveError::LinkType { .. } => Exit::BadConfig,
            LiveError::Open { .. } | LiveError::Gone { .. } | LiveError::List { .. } => {
                Exit::Failed
            }
        }
    }
}

impl From<LiveError> for Failure {
    fn from(error: LiveError) -> Self {
        Failure::new(error.exit(), error)
    }
}

/// A network interface of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name, to capture by.
    pub name: String,
    /// Whether it is up.
    pub up: bool,
    /// Its addresses.
    pub addresses: Vec<std::net::IpAddr>,
    /// The description by libpcap.
    pub description: String,
}

/// The interfaces of this machine that libpcap can capture on. It takes no right to know them.
///
/// # Errors
/// The system does not tell.
pub fn interfaces() -> Result<Vec<Interface>, LiveError> {
    let devices = Device::list().map_err(|error| LiveError::List { reason: reason(&error) })?;
    let interface = |device: Device| Interface {
        up: device.flags.is_up(),
        addresses: device.addresses.iter().map(|address| address.addr).collect(),
        description: device.desc.unwrap_or_default(),
        name: device.name,
    };
    Ok(devices.into_iter().map(interface).collect())
}

/// Frames that were there, and not seen, since the capture began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops {
    /// The kernel's buffer was full: we were too slow.
    pub kernel: u64,
    /// The interface or its driver had no room.
    pub interface: u64,
}

/// A counter of 32 bits that goes on from zero when it is full, as one of 64.
#[derive(Clone, Copy, Debug, Default)]
struct Wide {
    last: u32,
    sum: u64,
}

impl Wide {
    fn now(&mut self, count: u32) -> u64 {
        self.sum += u64::from(count.wrapping_sub(self.last));
        self.last = count;
        self.sum
    }
}

/// An interface that is being captured.
pub struct Live {
    interface: String,
    capture: Capture<Active>,
    link: LinkType,
    tally: Tally,
    kernel: Wide,
    driver: Wide,
}

impl Live {
    /// Begins to capture.
    ///
    /// # Errors
    /// There is no such interface, it may not be captured, its frames can't be read, or the filter is
    /// wrong.
    pub fn open(options: &Options) -> Result<Self, LiveError> {
        let interface = options.interface.clone();
        let capture = Self::activate(options).map_err(|error| cause(&interface, &error))?;
        let datalink = capture.get_datalink();
        let link = LinkType::new(u32::try_from(datalink.0).unwrap_or(u32::MAX));
        if let LinkType::Other(_) = link {
            let name = datalink.get_name().unwrap_or_else(|_| "without a name".to_owned());
            return Err(LiveError::LinkType { interface, number: datalink.0, name });
        }
        let (kernel, driver) = (Wide::default(), Wide::default());
        let mut live = Live { interface, capture, link, tally: Tally::default(), kernel, driver };
        if let Some(filter) = &options.filter {
            live.capture.filter(filter, true).map_err(|error| LiveError::Filter {
                filter: filter.clone(),
                interface: live.interface.clone(),
                reason: reason(&error),
            })?;
        }
        Ok(live)
    }

    fn activate(options: &Options) -> Result<Capture<Active>, pcap::Error> {
        let int = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
        Capture::from_device(options.interface.as_str())?
            .snaplen(int(options.snaplen))
            .buffer_size(int(options.buffer))
            .promisc(options.promiscuous)
            .timeout(BLOCK_MS.into())
            // The kernel has them anyhow.
            .precision(Precision::Nano)
            .open()?
            .setnonblock()
    }

    /// Waits until there may be frames, for at most so long.
    ///
    /// # Errors
    /// The interface is gone.
    pub fn wait(&mut self, at_most: Duration) -> Result<(), LiveError> {
        let timeout = PollTimeout::try_from(at_most).unwrap_or(PollTimeout::MAX);
        let mut descriptors = [PollFd::new(self.capture.as_fd(), PollFlags::POLLIN)];
        match poll(&mut descriptors, timeout) {
            // A signal came; there may be a reason to look around.
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(self.gone(error.desc().to_owned())),
        }
    }

    /// Hands over the packets that count among the frames that are there, and says how many frames
    /// there were; 0 when there are no more.
    ///
    /// # Errors
    /// The interface is gone.
    pub fn read(&mut self, each: &mut impl FnMut(&Packet)) -> Result<usize, LiveError> {
        let (link, tally) = (self.link, &mut self.tally);
        let frames = self.capture.dispatch(Some(FRAMES_AT_ONCE), |frame| {
            let (secs, nanos) = (frame.header.ts.tv_sec, frame.header.ts.tv_usec);
            let time = u64::try_from(secs).ok().zip(u64::try_from(nanos).ok());
            let time = time.and_then(|(secs, nanos)| EventTime::from_secs(secs, nanos));
            let timing = time.map_or(Timing::Bad, Timing::At);
            match judge(timing, link, frame.data, frame.header.len) {
                Ok(packet) => {
                    tally.count(packet.bytes);
                    each(&packet);
                }
                Err(kind) => count_unread(tally, kind, link, frame.data),
            }
        });
        frames.map_err(|error| self.gone(reason(&error)))
    }

    /// Returns the counts of the frames read so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Returns the counts of the frames dropped so far.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn drops(&mut self) -> Result<Drops, LiveError> {
        let stats = self.capture.stats().map_err(|error| self.gone(reason(&error)))?;
        let kernel = self.kernel.now(stats.dropped);
        Ok(Drops { kernel, interface: self.driver.now(stats.if_dropped) })
    }

    /// Whether the interface is up, as far as the system tells. One that is down brings nothing, and
    /// libpcap says nothing about it: it waits until it is up again.
    pub fn is_up(&self) -> bool {
        const UP: u32 = 1;
        let flags = std::fs::read_to_string(format!("/sys/class/net/{}/flags", self.interface));
        let flags = flags
            .ok()
            .and_then(|text| u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok());
        flags.is_none_or(|flags| flags & UP != 0)
    }

    fn gone(&self, reason: String) -> LiveError {
        LiveError::Gone { interface: self.interface.clone(), reason }
    }
}

/// Why an interface could not be opened.
fn cause(interface: &str, error: &pcap::Error) -> LiveError {
    let interface = interface.to_owned();
    // Without the right to capture, libpcap does not look whether the name exists.
    match interfaces() {
        Ok(existing) if existing.iter().all(|there| there.name != interface) => {
            let names = existing.iter().map(|there| Quoted(&there.name).to_string());
            let existing = names.collect::<Vec<_>>().join(", ");
            LiveError::NoSuchInterface { interface, existing }
        }
        _ if forbidden(error) => {
            let program = std::env::current_exe();
            let program =
                program.map_or_else(|_| "floodmark".into(), |path| path.display().to_string());
            LiveError::NoPermission { interface, program }
        }
        _ => LiveError::Open { interface, reason: reason(error) },
    }
}

/// Returns the text of a libpcap error, without the words of the binding around it.
fn reason(error: &pcap::Error) -> String {
    match error {
        pcap::Error::PcapError(text) => text.trim_end_matches('.').to_owned(),
        other => other.to_string(),
    }
}

/// Whether a right is missing. The binding hands on the text only, not libpcap's code.
fn forbidden(error: &pcap::Error) -> bool {
    let text = error.to_string().to_lowercase();
    ["permission", "not permitted", "cap_net_raw"].iter().any(|part| text.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_go_on_where_32_bits_end() {
        let mut wide = Wide::default();
        assert_eq!(wide.now(u32::MAX - 1), u64::from(u32::MAX) - 1);
        assert_eq!(wide.now(3), u64::from(u32::MAX) + 4);
        assert_eq!(wide.now(3), u64::from(u32::MAX) + 4);
    }

    #[test]
    fn an_interface_that_is_not_there_is_missing_whatever_the_rights() {
        let options = Options {
            interface: "no-such-interface".to_owned(),
            filter: None,
            snaplen: 256,
            buffer: 1 << 20,
            promiscuous: false,
        };
        let error = Live::open(&options).err().expect("it is not there");
        assert_eq!(error.exit(), Exit::NoInput);
        let text = error.to_string();
        assert!(text.contains("\"no-such-interface\"") && text.contains("\"lo\""), "{text}");
    }

    #[test]
    fn the_loopback_interface_is_listed() {
        let all = interfaces().expect("a list");
        assert!(all.iter().any(|interface| interface.name == "lo" && interface.up), "{all:?}");
    }
}
