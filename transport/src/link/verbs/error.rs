//! What can go wrong with RDMA verbs, and what an operator can do about it.

use super::{choice::ChoiceError, completion::status::CompletionError};
use pagewire_protocol::{RegionId, TcpReason};
use std::io;

/// Why verbs cannot be used, or has failed. Every one of these leaves TCP to be used instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerbsError {
    /// The library is not installed.
    #[error(
        "libibverbs.so.1 cannot be opened ({reason}): to use RDMA install it and its providers \
         (Debian, Ubuntu: libibverbs1 and ibverbs-providers; Fedora, RHEL: libibverbs)"
    )]
    LibraryMissing {
        /// What the dynamic linker said.
        reason: String,
    },
    /// The library lacks a function that every version since 2008 has.
    #[error(
        "libibverbs.so.1 has no function {symbol}: it is no libibverbs, or older than rdma-core; \
         install rdma-core's"
    )]
    LibraryLacks {
        /// The function.
        symbol: &'static str,
    },
    /// The kernel offers no user verbs.
    #[error(
        "this kernel has no RDMA support loaded: `modprobe ib_uverbs` and the driver of the RDMA \
         NIC (or rdma_rxe for a soft one), on the host if this is a container"
    )]
    NoKernelSupport,
    /// There is kernel support and no device.
    #[error(
        "no RDMA device found, expected at least one: load the driver of the RDMA NIC, or make a \
         soft one with `rdma link add rxe0 type rxe netdev DEV`"
    )]
    NoDevice,
    /// The kernel has devices that the library knows no provider for.
    #[error(
        "the kernel has RDMA devices ({}) and libibverbs has no provider for them: install the \
         providers (ibverbs-providers; in a container together with /sys and /dev/infiniband)",
        devices.join(", ")
    )]
    NoProvider {
        /// What sysfs lists.
        devices: Vec<String>,
    },
    /// The devices cannot be listed, for another reason.
    #[error("cannot list the RDMA devices: {0}")]
    List(#[source] io::Error),
    /// A device cannot be opened.
    // The library reports a device file that may not be opened as one that is not there.
    #[error(
        "cannot open RDMA device {device}: {source}; expected that this user may read and write \
         /dev/infiniband/uverbs* (mode 0666 by rdma-core's udev rules; in a container pass the \
         device on)"
    )]
    Open {
        /// Its name.
        device: String,
        /// What the system said.
        source: io::Error,
    },
    /// A device does not do what every verbs device does.
    #[error("RDMA device {device} does not offer {what}: its driver is defective, use another")]
    Lacks {
        /// Its name.
        device: String,
        /// The function.
        what: &'static str,
    },
    /// A question that the device does not answer.
    #[error("cannot ask RDMA device {device} for its {what}: {source}")]
    Query {
        /// Its name.
        device: String,
        /// What was asked.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// No port fits, or the configuration names one that does not exist.
    #[error(transparent)]
    Choice(#[from] ChoiceError),
    /// An object cannot be made.
    #[error("cannot make a {what} on RDMA device {device}: {source}{}", advice(source))]
    Create {
        /// The kind of object.
        what: &'static str,
        /// The device's name.
        device: String,
        /// What the system said.
        source: io::Error,
    },
    /// Memory cannot be registered.
    #[error(
        "RDMA device {device} cannot register {needed_bytes} bytes of memory: {source}; this \
         process may lock {} (hard limit: {}), expected at least {needed_bytes} bytes beside what \
         it locked before: raise it with `ulimit -l {}` before the start or \
         LimitMEMLOCK=infinity in the systemd unit",
        limit(*soft_bytes), limit(*hard_bytes), needed_bytes.div_ceil(1024)
    )]
    Memory {
        /// The device's name.
        device: String,
        /// Bytes to register.
        needed_bytes: usize,
        /// The limit now (RLIMIT_MEMLOCK); `None`: none.
        soft_bytes: Option<u64>,
        /// What it may be raised to without privileges; `None`: anything.
        hard_bytes: Option<u64>,
        /// What the system said.
        source: io::Error,
    },
    /// A capacity is 0, or more than the device or the completion queue has.
    #[error(
        "{what}: {needed} needed, {available} to be had (at least 1): lower the credits or the \
         number of peers, or use a device that has more"
    )]
    Capacity {
        /// Of what.
        what: &'static str,
        /// How many were asked for.
        needed: u32,
        /// How many there are.
        available: u32,
    },
    /// A queue pair does not take its next state.
    #[error(
        "queue pair {queue_pair} of {device} does not go to {state}: {source}{}",
        route_advice(source)
    )]
    Modify {
        /// The device's name.
        device: String,
        /// Its number.
        queue_pair: u32,
        /// The state.
        state: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// What the peer stated about its end cannot be.
    #[error("the peer's queue pair cannot be reached: {problem}")]
    PeerAddress {
        /// What is wrong with it, and what was expected.
        problem: &'static str,
    },
    /// Work requests were not taken: the queue pair is of no use any more.
    #[error("cannot post to the {queue} queue of queue pair {queue_pair}: {source}")]
    Post {
        /// Which queue: send or receive.
        queue: &'static str,
        /// The queue pair's number.
        queue_pair: u32,
        /// What the driver said.
        source: io::Error,
    },
    /// A completion queue cannot be used any more.
    #[error("cannot {what} a completion queue of {device}: {source}")]
    CompletionQueue {
        /// What failed: poll, arm, or take events from.
        what: &'static str,
        /// The device's name.
        device: String,
        /// What the driver said.
        source: io::Error,
    },
    /// The device was removed.
    #[error("RDMA device {device} was removed")]
    Removed {
        /// Its name.
        device: String,
    },
    /// A region that is closed is not left: the queue pairs are closed instead.
    #[error(
        "the peer has the key of region {region}, which is closed here, and has not left it in time, \
         or its version cannot: its queue pairs are closed and made anew"
    )]
    RegionKept {
        /// Its number.
        region: RegionId,
    },
    /// The device reports that a queue pair or itself is dead.
    #[error("RDMA device {device} reports {event:?}")]
    Event {
        /// Its name.
        device: String,
        /// What it reports.
        event: super::event::AsyncEvent,
    },
    /// A work request failed.
    #[error(transparent)]
    Completion(#[from] CompletionError),
    /// The driver reports work that was never posted.
    #[error(
        "queue pair {queue_pair} reports {work} as done, which is not outstanding: the driver or \
         the caller is defective"
    )]
    UnknownWork {
        /// The queue pair's number.
        queue_pair: u32,
        /// The work request.
        work: String,
    },
}

impl VerbsError {
    /// Why TCP is used instead, as peers and operators are told it: of what is found before there
    /// are messages on verbs. What fails then is [`TcpReason::Failed`].
    #[must_use]
    pub fn tcp_reason(&self) -> TcpReason {
        match self {
            Self::LibraryMissing { .. } | Self::LibraryLacks { .. } | Self::NoProvider { .. } => {
                TcpReason::NoLibrary
            }
            Self::NoKernelSupport => TcpReason::NoKernelSupport,
            Self::NoDevice | Self::List(_) | Self::Open { .. } => TcpReason::NoDevice,
            Self::Choice(_) => TcpReason::NoPort,
            Self::Memory { .. } => TcpReason::NotRegistered,
            _ => TcpReason::Setup,
        }
    }
}

pub(super) fn limit(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "no limit".to_owned(), |bytes| format!("{bytes} bytes"))
}

fn advice(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::ENOMEM) => {
            "; the device is out of resources, or the limit on locked memory (ulimit -l) is too low"
        }
        Some(libc::EINVAL) => "; the device does not have that many: lower the credits",
        _ => "",
    }
}

fn route_advice(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ETIMEDOUT) => {
            "; the peer's GID has no route or does not answer: both ends need GIDs of one network \
             and one RoCE version (see `rdma link` and the GID table)"
        }
        _ => "",
    }
}

/// What an integer that a verbs function returned means: 0, an errno, or -1 with errno set.
pub(super) fn check(returned: i32) -> io::Result<()> {
    match returned {
        0 => Ok(()),
        positive @ 1.. => Err(io::Error::from_raw_os_error(positive)),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memory_limit_that_is_too_low_says_found_needed_and_what_to_set() {
        let error = VerbsError::Memory {
            device: "mlx5_0".to_owned(),
            needed_bytes: 64 << 20,
            soft_bytes: Some(8 << 20),
            hard_bytes: None,
            source: io::Error::from_raw_os_error(libc::ENOMEM),
        };
        let text = error.to_string();
        for word in ["mlx5_0", "67108864 bytes", "8388608 bytes", "no limit", "ulimit -l 65536"] {
            assert!(text.contains(word), "'{word}' in: {text}");
        }
    }

    #[test]
    fn each_answer_to_a_host_without_rdma_says_what_to_do() {
        let missing = VerbsError::LibraryMissing { reason: "no such file".to_owned() };
        assert!(missing.to_string().contains("ibverbs-providers"));
        assert!(VerbsError::NoKernelSupport.to_string().contains("modprobe ib_uverbs"));
        assert!(VerbsError::NoDevice.to_string().contains("rdma link add rxe0 type rxe"));
        let unknown = VerbsError::NoProvider { devices: vec!["rxe0".to_owned()] };
        assert!(unknown.to_string().contains("rxe0"));
    }

    #[test]
    fn each_cause_has_the_reason_that_peers_are_told() {
        let denied = || io::Error::from_raw_os_error(libc::ENOMEM);
        let memory = VerbsError::Memory {
            device: "mlx5_0".to_owned(),
            needed_bytes: 1,
            soft_bytes: None,
            hard_bytes: None,
            source: denied(),
        };
        let found = Vec::new();
        let choice = ChoiceError::GidIndex { named: 77, found };
        for (error, reason) in [
            (VerbsError::LibraryMissing { reason: String::new() }, TcpReason::NoLibrary),
            (VerbsError::NoProvider { devices: Vec::new() }, TcpReason::NoLibrary),
            (VerbsError::NoKernelSupport, TcpReason::NoKernelSupport),
            (VerbsError::NoDevice, TcpReason::NoDevice),
            (VerbsError::List(denied()), TcpReason::NoDevice),
            (VerbsError::Choice(choice), TcpReason::NoPort),
            (memory, TcpReason::NotRegistered),
            (VerbsError::PeerAddress { problem: "" }, TcpReason::Setup),
        ] {
            assert_eq!(error.tcp_reason(), reason, "{error}");
        }
    }

    #[test]
    fn an_errno_is_found_however_the_function_returns_it() {
        assert!(check(0).is_ok());
        assert_eq!(check(libc::ENOMEM).unwrap_err().raw_os_error(), Some(libc::ENOMEM));
    }
}
