//! Packets of a network interface, as they pass.
//!
//! Frames are counted by the same rules as those of a file. Reading never blocks: waiting is by poll(2), since the
//! waiting of libpcap does not return on an idle link (with TPACKET_V3 its time-out only begins with a packet). The
//! kernel delivers frames in blocks, each at the latest [`BLOCK_MS`] after its first frame; its immediate mode, which
//! delivers each frame by itself, costs four times as much.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pcap::{Active, Capture, Device, Precision};

use super::LinkType;
use super::packet::Packet;
use super::reader::{count_uncounted, decode_packet};
use super::tally::Tally;
use super::time::{EventTime, Timing};
use crate::base::error::{Exit, Failure};
use crate::base::quote::Quoted;

/// Longest time for which the kernel may retain frames to fill a block, in milliseconds.
pub const BLOCK_MS: u16 = 100;

/// Maximum number of frames of one call, so that the caller regains control regularly.
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
    /// Whether to capture frames for other stations, too.
    pub promiscuous: bool,
}

/// The error that kept a live capture from starting, or ended it.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// The interface does not exist.
    #[error("there is no interface {}; there are {existing}", Quoted(.interface))]
    NoSuchInterface {
        /// The name given for the interface.
        interface: String,
        /// The names of the existing interfaces.
        existing: String,
    },
    /// This process lacks the right to capture.
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
        "interface {} has frames of link type {number} ({name}), which is not supported; capture on another \
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
    /// Opening the interface failed for another reason.
    #[error("can't open interface {}: {reason}", Quoted(.interface))]
    Open {
        /// The name of the interface.
        interface: String,
        /// The error of libpcap.
        reason: String,
    },
    /// Reading the interface failed after the capture started.
    #[error("interface {} can't be read any more: {reason}", Quoted(.interface))]
    Gone {
        /// The name of the interface.
        interface: String,
        /// The error of libpcap.
        reason: String,
    },
    /// Listing the interfaces failed.
    #[error("can't list the interfaces: {reason}")]
    List {
        /// The error of libpcap.
        reason: String,
    },
}

impl LiveError {
    /// Returns the exit code of a command that ends with this error.
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

/// Returns the interfaces of this machine that libpcap can capture on. Needs no privilege.
///
/// # Errors
/// If libpcap can't list the interfaces.
pub fn interfaces() -> Result<Vec<Interface>, LiveError> {
    let devices = Device::list().map_err(|error| LiveError::List { reason: error_text(&error) })?;
    let interface = |device: Device| Interface {
        up: device.flags.is_up(),
        addresses: device.addresses.iter().map(|address| address.addr).collect(),
        description: device.desc.unwrap_or_default(),
        name: device.name,
    };
    Ok(devices.into_iter().map(interface).collect())
}

/// Numbers of frames dropped before they were read, since the capture began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops {
    /// Frames dropped by the kernel: its buffer was full, since this process read too slowly.
    pub kernel: u64,
    /// Frames dropped by the interface or its driver.
    pub interface: u64,
}

/// Extends a wrapping counter of 32 bits to 64 bits.
#[derive(Clone, Copy, Debug, Default)]
struct WideCounter {
    last: u32,
    sum: u64,
}

impl WideCounter {
    fn update(&mut self, count: u32) -> u64 {
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
    kernel: WideCounter,
    driver: WideCounter,
}

impl Live {
    /// Starts a capture.
    ///
    /// # Errors
    /// If the interface does not exist, the right to capture is missing, the link type is not supported, or the filter
    /// is not valid.
    pub fn open(options: &Options) -> Result<Self, LiveError> {
        let interface = options.interface.clone();
        let capture = Self::activate(options).map_err(|error| open_error(&interface, &error))?;
        let datalink = capture.get_datalink();
        let link = LinkType::new(u32::try_from(datalink.0).unwrap_or(u32::MAX));
        if let LinkType::Other(_) = link {
            let name = datalink.get_name().unwrap_or_else(|_| "without a name".to_owned());
            return Err(LiveError::LinkType { interface, number: datalink.0, name });
        }
        let (kernel, driver) = (WideCounter::default(), WideCounter::default());
        let mut live = Live { interface, capture, link, tally: Tally::default(), kernel, driver };
        if let Some(filter) = &options.filter {
            live.capture.filter(filter, true).map_err(|error| LiveError::Filter {
                filter: filter.clone(),
                interface: live.interface.clone(),
                reason: error_text(&error),
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
            // The kernel takes timestamps in nanoseconds anyhow.
            .precision(Precision::Nano)
            .open()?
            .setnonblock()
    }

    /// Waits until frames may be readable, for at most so long.
    ///
    /// # Errors
    /// If the interface can't be read any more.
    pub fn wait(&mut self, at_most: Duration) -> Result<(), LiveError> {
        let timeout = PollTimeout::try_from(at_most).unwrap_or(PollTimeout::MAX);
        let mut descriptors = [PollFd::new(self.capture.as_fd(), PollFlags::POLLIN)];
        match poll(&mut descriptors, timeout) {
            // After a signal the caller checks for an interrupt.
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(self.read_error(error.desc().to_owned())),
        }
    }

    /// Calls `visit` with the packets that count among the buffered frames, and returns the number of frames read; 0
    /// when the buffer is empty.
    ///
    /// # Errors
    /// If the interface can't be read any more.
    pub fn read(&mut self, visit: &mut impl FnMut(&Packet)) -> Result<usize, LiveError> {
        let (link, tally) = (self.link, &mut self.tally);
        let frames = self.capture.dispatch(Some(FRAMES_AT_ONCE), |frame| {
            let (secs, nanos) = (frame.header.ts.tv_sec, frame.header.ts.tv_usec);
            let time = u64::try_from(secs).ok().zip(u64::try_from(nanos).ok());
            let time = time.and_then(|(secs, nanos)| EventTime::from_secs(secs, nanos));
            let timing = time.map_or(Timing::Bad, Timing::At);
            match decode_packet(timing, link, frame.data, frame.header.len) {
                Ok(packet) => {
                    tally.count(packet.bytes);
                    visit(&packet);
                }
                Err(kind) => count_uncounted(tally, kind, link, frame.data),
            }
        });
        frames.map_err(|error| self.read_error(error_text(&error)))
    }

    /// Returns the counts of the frames read so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Returns the counts of the frames dropped so far.
    ///
    /// # Errors
    /// If libpcap can't return them.
    pub fn drops(&mut self) -> Result<Drops, LiveError> {
        let stats = self.capture.stats().map_err(|error| self.read_error(error_text(&error)))?;
        let kernel = self.kernel.update(stats.dropped);
        Ok(Drops { kernel, interface: self.driver.update(stats.if_dropped) })
    }

    /// Whether the interface is up, as far as the system reports it. libpcap reports no error of an interface that is
    /// down, and continues when it is up again.
    pub fn is_up(&self) -> bool {
        const UP: u32 = 1;
        let flags = std::fs::read_to_string(format!("/sys/class/net/{}/flags", self.interface));
        let flags = flags
            .ok()
            .and_then(|text| u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok());
        flags.is_none_or(|flags| flags & UP != 0)
    }

    fn read_error(&self, reason: String) -> LiveError {
        LiveError::Gone { interface: self.interface.clone(), reason }
    }
}

/// Returns the error for an interface that libpcap could not open.
fn open_error(interface: &str, error: &pcap::Error) -> LiveError {
    let interface = interface.to_owned();
    // Without the right to capture, libpcap does not check whether the interface exists.
    match interfaces() {
        Ok(existing) if existing.iter().all(|there| there.name != interface) => {
            let names = existing.iter().map(|there| Quoted(&there.name).to_string());
            let existing = names.collect::<Vec<_>>().join(", ");
            LiveError::NoSuchInterface { interface, existing }
        }
        _ if is_permission_error(error) => {
            let program = std::env::current_exe();
            let program =
                program.map_or_else(|_| "floodmark".into(), |path| path.display().to_string());
            LiveError::NoPermission { interface, program }
        }
        _ => LiveError::Open { interface, reason: error_text(error) },
    }
}

/// Returns the text of a libpcap error, without the words of the binding around it.
fn error_text(error: &pcap::Error) -> String {
    match error {
        pcap::Error::PcapError(text) => text.trim_end_matches('.').to_owned(),
        other => other.to_string(),
    }
}

/// Whether an error means a missing privilege. The binding returns only libpcap's text, not its code.
fn is_permission_error(error: &pcap::Error) -> bool {
    let text = error.to_string().to_lowercase();
    ["permission", "not permitted", "cap_net_raw"].iter().any(|part| text.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counter_continues_beyond_32_bits() {
        let mut counter = WideCounter::default();
        assert_eq!(counter.update(u32::MAX - 1), u64::from(u32::MAX) - 1);
        assert_eq!(counter.update(3), u64::from(u32::MAX) + 4);
        assert_eq!(counter.update(3), u64::from(u32::MAX) + 4);
    }

    #[test]
    fn missing_interface_is_reported_with_the_existing_ones() {
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
    fn loopback_interface_is_listed() {
        let all = interfaces().expect("a list");
        assert!(all.iter().any(|interface| interface.name == "lo" && interface.up), "{all:?}");
    }
}
