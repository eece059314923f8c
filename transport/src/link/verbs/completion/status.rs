//! How work went: what the library says, as cause and remedy.

use super::work::Work;
use crate::link::verbs::abi;

/// How a work request went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Success,
    /// The message is longer than the receive, or than the port's greatest message.
    LocalLength,
    /// The queue pair found something wrong with a work request.
    LocalOperation,
    /// A work request named memory that is not registered, or not for this.
    LocalProtection,
    /// The queue pair was in error before the work was begun.
    Flushed,
    /// The peer answered something that was not asked.
    BadResponse,
    /// The peer's write was not allowed, told to the receiver.
    LocalAccess,
    /// The peer cannot do what was asked: its receive is too short for the message.
    RemoteInvalidRequest,
    /// The peer does not allow the access.
    RemoteAccess,
    /// The peer's queue pair failed while it did what was asked.
    RemoteOperation,
    /// The peer does not acknowledge.
    RetryExceeded,
    /// The peer had no receive posted, again and again.
    RnrRetryExceeded,
    /// The peer ended the operation.
    RemoteAborted,
    /// The device or the queue pair has failed.
    Fatal,
    /// The peer did not answer in time.
    ResponseTimeout,
    /// The driver does not say.
    General,
    /// A value of `enum ibv_wc_status` that a reliable queue pair does not have.
    Other(u32),
}

impl Status {
    /// The meaning of a value of `enum ibv_wc_status`.
    #[must_use]
    pub fn from_raw(status: u32) -> Self {
        match status {
            abi::IBV_WC_SUCCESS => Self::Success,
            abi::IBV_WC_LOC_LEN_ERR => Self::LocalLength,
            abi::IBV_WC_LOC_QP_OP_ERR => Self::LocalOperation,
            abi::IBV_WC_LOC_PROT_ERR => Self::LocalProtection,
            abi::IBV_WC_WR_FLUSH_ERR => Self::Flushed,
            abi::IBV_WC_BAD_RESP_ERR => Self::BadResponse,
            abi::IBV_WC_LOC_ACCESS_ERR => Self::LocalAccess,
            abi::IBV_WC_REM_INV_REQ_ERR => Self::RemoteInvalidRequest,
            abi::IBV_WC_REM_ACCESS_ERR => Self::RemoteAccess,
            abi::IBV_WC_REM_OP_ERR => Self::RemoteOperation,
            abi::IBV_WC_RETRY_EXC_ERR => Self::RetryExceeded,
            abi::IBV_WC_RNR_RETRY_EXC_ERR => Self::RnrRetryExceeded,
            abi::IBV_WC_REM_ABORT_ERR => Self::RemoteAborted,
            abi::IBV_WC_FATAL_ERR => Self::Fatal,
            abi::IBV_WC_RESP_TIMEOUT_ERR => Self::ResponseTimeout,
            abi::IBV_WC_GENERAL_ERR => Self::General,
            other => Self::Other(other),
        }
    }

    /// What has happened, for an operator.
    #[must_use]
    pub fn cause(self) -> &'static str {
        match self {
            Self::Success => "nothing",
            Self::LocalLength => "a message is longer than the receive that was posted for it",
            Self::LocalOperation => "the queue pair cannot do what a work request asks",
            Self::LocalProtection => "a work request names memory that is not registered for it",
            Self::Flushed => "the queue pair had failed before, or was closed",
            Self::BadResponse => "the peer sent an answer that was not expected",
            Self::LocalAccess => "the peer tried an access that is not allowed",
            Self::RemoteInvalidRequest => {
                "the peer cannot take the request: its receive is shorter"
            }
            Self::RemoteAccess => "the peer does not allow the access",
            Self::RemoteOperation => "the peer's queue pair failed during the operation",
            Self::RetryExceeded => "the peer did not acknowledge in any of the tries",
            Self::RnrRetryExceeded => "the peer had no receive posted in any of the tries",
            Self::RemoteAborted => "the peer ended the operation",
            Self::Fatal => "the device has failed",
            Self::ResponseTimeout => "the peer did not answer in time",
            Self::General => "the driver gives no cause",
            Self::Other(_) => "the driver gives a cause that is not known",
        }
    }

    /// What an operator can do about it.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Success => "nothing to do",
            Self::Flushed => "look for the first error of this queue pair",
            Self::RetryExceeded | Self::ResponseTimeout => {
                "see whether the peer's host and port are up, whether both ends use the same RoCE \
                 version and packets of the active MTU pass the network, and that it loses none \
                 (PFC or ECN for RoCE)"
            }
            Self::RnrRetryExceeded => {
                "the credits forbid this: see that both ends have the same settings, and report it"
            }
            Self::LocalLength | Self::RemoteInvalidRequest => {
                "see that both ends have the same page size and version, and report it"
            }
            Self::RemoteAccess | Self::LocalAccess => {
                "see that one-sided reads are turned on at both ends, or at none"
            }
            Self::Fatal => "see the kernel's log; the device has to be reset",
            Self::RemoteOperation | Self::RemoteAborted => "see the peer's log",
            // What rxe says when its network interface is down.
            Self::LocalOperation => {
                "see that the port and its network interface are up, then the kernel's log"
            }
            Self::LocalProtection | Self::BadResponse | Self::General | Self::Other(_) => {
                "see the kernel's log for the device, and report it"
            }
        }
    }
}

/// A work request that failed; its queue pair does no work any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{work} of queue pair {queue_pair} failed: {} ({status:?}, vendor error {vendor_error:#x}); {}",
    status.cause(), status.remedy()
)]
pub struct CompletionError {
    /// Number of the queue pair.
    pub queue_pair: u32,
    /// Which work.
    pub work: Work,
    /// How it went.
    pub status: Status,
    /// What the driver adds, for its vendor.
    pub vendor_error: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_a_cause_and_a_remedy_and_unknown_ones_are_kept() {
        for raw in 0..40 {
            let status = Status::from_raw(raw);
            assert!(!status.cause().is_empty() && !status.remedy().is_empty());
            assert_eq!(status == Status::Success, raw == 0);
        }
        assert_eq!(Status::from_raw(5), Status::Flushed);
        assert_eq!(Status::from_raw(13), Status::RnrRetryExceeded);
        assert_eq!(Status::from_raw(99), Status::Other(99));
    }
}
