//! Asynchronous events of a device, decoded.
//!
//! Leaf module: the unsafe here reads the member of a union that the event's type names.

use super::abi;

/// What has happened to a device, a port or a queue pair, beside the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AsyncEvent {
    /// The port is not usable: links over it are going to fail.
    PortDown {
        /// Its number.
        port: u8,
    },
    /// The port is usable.
    PortActive {
        /// Its number.
        port: u8,
    },
    /// The port's addresses have changed (GID, LID, subnet manager): choose anew.
    AddressChange {
        /// Its number.
        port: u8,
    },
    /// The device has failed: every link over it is dead, and it has to be opened anew.
    DeviceFatal,
    /// The queue pair has failed beside its work requests.
    QueuePairFatal {
        /// Its number.
        queue_pair: u32,
    },
    /// The queue pair was told of an access or a request that is not allowed.
    QueuePairAccess {
        /// Its number.
        queue_pair: u32,
    },
    /// The queue pair has taken its last receive.
    LastWorkRequest {
        /// Its number.
        queue_pair: u32,
    },
    /// A completion queue has overrun: the link's capacities are wrong.
    CompletionQueue,
    /// The first message arrived on a queue pair that is not yet ready to send; needs no action.
    Established {
        /// Its number.
        queue_pair: u32,
    },
    /// Nothing that concerns us.
    Other(u32),
}

impl AsyncEvent {
    /// Reads what the event's type says it holds.
    ///
    /// # Safety
    /// The event came from the library and is not yet acknowledged.
    pub(super) unsafe fn decode(event: &abi::ibv_async_event) -> Self {
        let port = || {
            // SAFETY: only called for types of which the manual says that they hold a port.
            u8::try_from(unsafe { event.element.port_num }).unwrap_or(0)
        };
        let queue_pair = || {
            // SAFETY: only called for types of which the manual says that they hold a queue pair,
            // which exists until the event is acknowledged.
            unsafe { (*event.element.qp).qp_num }
        };
        match event.event_type {
            abi::IBV_EVENT_PORT_ERR => Self::PortDown { port: port() },
            abi::IBV_EVENT_PORT_ACTIVE => Self::PortActive { port: port() },
            abi::IBV_EVENT_GID_CHANGE
            | abi::IBV_EVENT_LID_CHANGE
            | abi::IBV_EVENT_SM_CHANGE
            | abi::IBV_EVENT_PKEY_CHANGE
            | abi::IBV_EVENT_CLIENT_REREGISTER => Self::AddressChange { port: port() },
            abi::IBV_EVENT_DEVICE_FATAL => Self::DeviceFatal,
            abi::IBV_EVENT_QP_FATAL => Self::QueuePairFatal { queue_pair: queue_pair() },
            abi::IBV_EVENT_QP_REQ_ERR | abi::IBV_EVENT_QP_ACCESS_ERR => {
                Self::QueuePairAccess { queue_pair: queue_pair() }
            }
            abi::IBV_EVENT_QP_LAST_WQE_REACHED => {
                Self::LastWorkRequest { queue_pair: queue_pair() }
            }
            abi::IBV_EVENT_COMM_EST => Self::Established { queue_pair: queue_pair() },
            abi::IBV_EVENT_CQ_ERR => Self::CompletionQueue,
            other => Self::Other(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_port(event_type: u32, port_num: i32) -> AsyncEvent {
        let event =
            abi::ibv_async_event { element: abi::ibv_async_element { port_num }, event_type };
        // SAFETY: only types that hold a port, or nothing, are made here.
        unsafe { AsyncEvent::decode(&event) }
    }

    #[test]
    fn events_of_ports_and_devices_are_told_apart_and_new_ones_survive() {
        assert_eq!(of_port(abi::IBV_EVENT_PORT_ERR, 2), AsyncEvent::PortDown { port: 2 });
        assert_eq!(of_port(abi::IBV_EVENT_GID_CHANGE, 1), AsyncEvent::AddressChange { port: 1 });
        assert_eq!(of_port(abi::IBV_EVENT_DEVICE_FATAL, 0), AsyncEvent::DeviceFatal);
        // IBV_EVENT_DEVICE_SPEED_CHANGE of newer libraries.
        assert_eq!(of_port(20, 1), AsyncEvent::Other(20));
    }

    #[test]
    fn an_event_of_a_queue_pair_names_it() {
        // SAFETY: pointers and integers, and a mutex that nobody locks: zeros are a value.
        let mut pair: abi::ibv_qp = unsafe { std::mem::zeroed() };
        pair.qp_num = 17;
        let element = abi::ibv_async_element { qp: &raw mut pair };
        let event = abi::ibv_async_event { element, event_type: abi::IBV_EVENT_QP_FATAL };
        // SAFETY: the event holds a queue pair, which is there.
        let decoded = unsafe { AsyncEvent::decode(&event) };
        assert_eq!(decoded, AsyncEvent::QueuePairFatal { queue_pair: 17 });
    }
}
