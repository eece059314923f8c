//! Devices, opened, and what they say about themselves.
//!
//! Invariants: the pointer of a [`Context`] is an open context until the value is dropped, and every
//! object made from it holds it by `Arc`, so it is closed last. Its function table has all four
//! functions of the hot path.
//!
//! Threading: libibverbs may be called from any thread; a context is shared by those that use it.
//!
//! Leaf module: the unsafe here calls functions of the library with pointers that came from it.

use super::{
    abi,
    choice::{DeviceFacts, Gid, GidKind, LinkLayer, Mtu, PortFacts, PortState},
    error::{VerbsError, check},
    event::AsyncEvent,
    library::Library,
    quirks::{self, Quirks},
    sysfs,
};
use std::{
    ffi::{CStr, c_int, c_void},
    fmt, io,
    mem::zeroed,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    ptr::{self, NonNull},
    sync::Arc,
};

/// Entries of the table of addresses that are asked for. The kernel takes no more than 65535 bytes
/// of 32 each (`ib_uverbs_attr.len` has 16 bits), and answers EINVAL.
const GIDS_MAX: usize = 2000;

/// Names of the devices that the library can open, in its order.
///
/// # Errors
/// One of three answers to a host without RDMA ([`VerbsError::LibraryMissing`],
/// [`VerbsError::NoKernelSupport`], [`VerbsError::NoDevice`]); [`VerbsError::NoProvider`];
/// [`VerbsError::LibraryLacks`] or [`VerbsError::List`] when something is broken.
pub fn device_names() -> Result<Vec<String>, VerbsError> {
    let list = List::new(Library::get()?)?;
    Ok(list.devices().map(|device| list.name(device)).collect())
}

/// Opens every device and says what it is. A device that cannot be opened is left out, with its
/// reason in the log, unless there is no other.
///
/// # Errors
/// As [`device_names`]; [`VerbsError::Open`] or [`VerbsError::Query`] when no device works.
pub fn open_all() -> Result<Vec<Arc<Context>>, VerbsError> {
    open_others(|_| false)
}

/// As [`open_all`], without those that `is_open` already.
///
/// # Errors
/// As [`open_all`].
pub fn open_others(is_open: impl Fn(&str) -> bool) -> Result<Vec<Arc<Context>>, VerbsError> {
    let mut opened = Vec::new();
    let mut failed = None;
    for name in device_names()?.into_iter().filter(|name| !is_open(name)) {
        match Context::open(&name) {
            Ok(context) => opened.push(context),
            Err(error) => {
                tracing::warn!("RDMA device {name} is left out: {error}");
                failed = Some(error);
            }
        }
    }
    match failed {
        Some(error) if opened.is_empty() => Err(error),
        _ => Ok(opened),
    }
}

/// The library's list of devices, freed when dropped.
struct List {
    library: &'static Library,
    first: NonNull<*mut abi::ibv_device>,
    len: usize,
}

impl List {
    fn new(library: &'static Library) -> Result<Self, VerbsError> {
        let mut len: c_int = 0;
        // SAFETY: `len` is a valid place for the number.
        let first = unsafe { (library.get_device_list)(&raw mut len) };
        let Some(first) = NonNull::new(first) else {
            return Err(without_list(io::Error::last_os_error()));
        };
        let list = Self { library, first, len: usize::try_from(len).unwrap_or(0) };
        if list.len == 0 {
            return Err(match sysfs::device_names() {
                devices if devices.is_empty() => VerbsError::NoDevice,
                devices => VerbsError::NoProvider { devices },
            });
        }
        Ok(list)
    }

    fn devices(&self) -> impl Iterator<Item = *mut abi::ibv_device> {
        // SAFETY: the list has `len` pointers and is freed only when this value is dropped.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.len) }.iter().copied()
    }

    fn name(&self, device: *mut abi::ibv_device) -> String {
        // SAFETY: `device` is of this list; its name is a C string that lives as long.
        let name = unsafe { CStr::from_ptr((self.library.get_device_name)(device)) };
        name.to_string_lossy().into_owned()
    }
}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: the list came from `get_device_list` and is freed once; contexts that were opened
        // hold their devices themselves.
        unsafe { (self.library.free_device_list)(self.first.as_ptr()) };
    }
}

fn without_list(error: io::Error) -> VerbsError {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => VerbsError::NoKernelSupport,
        _ => VerbsError::List(error),
    }
}

/// An open device.
pub struct Context {
    raw: NonNull<abi::ibv_context>,
    library: &'static Library,
    name: String,
    guid: u64,
    attributes: abi::ibv_device_attr,
    quirks: Quirks,
    /// By which it is opened; gone once the device is removed.
    file: Option<PathBuf>,
}

// SAFETY: libibverbs serialises what needs it; the pointer is owned by this value alone.
unsafe impl Send for Context {}
// SAFETY: as above: its functions may be called from several threads at once.
unsafe impl Sync for Context {}

impl Context {
    /// Opens the device of that name.
    ///
    /// # Errors
    /// As [`device_names`]; [`VerbsError::Choice`] when there is no such device; otherwise
    /// [`VerbsError::Open`], [`VerbsError::Query`] or [`VerbsError::Lacks`].
    pub fn open(name: &str) -> Result<Arc<Self>, VerbsError> {
        let library = Library::get()?;
        let list = List::new(library)?;
        let Some(device) = list.devices().find(|device| list.name(*device) == name) else {
            let found = list.devices().map(|device| list.name(device)).collect();
            let named = name.to_owned();
            return Err(super::choice::ChoiceError::Device { named, found }.into());
        };
        // SAFETY: `device` is of a list that is not yet freed.
        let raw = unsafe { (library.open_device)(device) };
        let opening = |source| VerbsError::Open { device: name.to_owned(), source };
        let raw = NonNull::new(raw).ok_or_else(|| opening(io::Error::last_os_error()))?;
        // SAFETY: as above.
        let guid = u64::from_be(unsafe { (library.get_device_guid)(device) });
        // SAFETY: plain integers, for which zeros are a value.
        let attributes: abi::ibv_device_attr = unsafe { zeroed() };
        let quirks = Quirks::of(None, name);
        // From here on dropping it closes the device.
        let file = device_file(raw.as_ptr());
        let name = name.to_owned();
        let mut context = Self { raw, library, name, guid, attributes, quirks, file };
        context.check_functions()?;
        context.query()?;
        context.quirks = Quirks::of(context.provider().as_deref(), &context.name);
        set_nonblocking(context.async_events_fd()).map_err(opening)?;
        Ok(Arc::new(context))
    }

    fn ops(&self) -> abi::ibv_context_ops {
        // SAFETY: the context is open; the table is only written while it is being opened.
        unsafe { (*self.raw.as_ptr()).ops }
    }

    fn check_functions(&self) -> Result<(), VerbsError> {
        let ops = self.ops();
        let functions = [
            (ops.poll_cq.is_some(), "poll_cq"),
            (ops.req_notify_cq.is_some(), "req_notify_cq"),
            (ops.post_send.is_some(), "post_send"),
            (ops.post_recv.is_some(), "post_recv"),
        ];
        match functions.iter().find(|(is_there, _)| !is_there) {
            Some(&(_, what)) => Err(VerbsError::Lacks { device: self.name.clone(), what }),
            None => Ok(()),
        }
    }

    fn query(&mut self) -> Result<(), VerbsError> {
        // SAFETY: the context is open, and there is room for the answer.
        let returned =
            unsafe { (self.library.query_device)(self.raw.as_ptr(), &raw mut self.attributes) };
        check(returned).map_err(|source| self.unanswered("attributes", source))
    }

    fn unanswered(&self, what: &'static str, source: io::Error) -> VerbsError {
        VerbsError::Query { device: self.name.clone(), what, source }
    }

    /// The library that the context's functions come from says which driver this is.
    fn provider(&self) -> Option<String> {
        // SAFETY: plain pointers, for which zeros are a value.
        let mut found: libc::Dl_info = unsafe { zeroed() };
        let function = self.ops().poll_cq? as *const c_void;
        // SAFETY: there is room for the answer; any address may be asked for.
        let known = unsafe { libc::dladdr(function, &raw mut found) } != 0;
        if !known || found.dli_fname.is_null() {
            return None;
        }
        // SAFETY: the name of a loaded library, which stays loaded while the device is open.
        let path = unsafe { CStr::from_ptr(found.dli_fname) };
        quirks::provider_of(path.to_str().ok()?).map(str::to_owned)
    }

    /// The device's name, such as `mlx5_0`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number that identifies the device in the world.
    #[must_use]
    pub fn guid(&self) -> u64 {
        self.guid
    }

    /// How its driver differs from others.
    #[must_use]
    pub fn quirks(&self) -> Quirks {
        self.quirks
    }

    /// Most work requests of one queue.
    #[must_use]
    pub fn work_requests_max(&self) -> u32 {
        u32::try_from(self.attributes.max_qp_wr).unwrap_or(0)
    }

    /// Most entries of one completion queue.
    #[must_use]
    pub fn completions_max(&self) -> u32 {
        u32::try_from(self.attributes.max_cqe).unwrap_or(0)
    }

    /// Most RDMA reads of one queue pair that may be under way at once, in each direction.
    #[must_use]
    pub fn reads_max(&self) -> u8 {
        let asked = self.attributes.max_qp_rd_atom.min(self.attributes.max_qp_init_rd_atom);
        u8::try_from(asked.clamp(0, 16)).unwrap_or(16)
    }

    /// What the device's ports are and have, now.
    ///
    /// # Errors
    /// [`VerbsError::Query`].
    pub fn facts(&self) -> Result<DeviceFacts, VerbsError> {
        let gids = self.gids()?;
        let port = |number| {
            let gids = gids.iter().filter(|(port, _)| *port == u32::from(number));
            self.port(number, gids.map(|(_, gid)| gid.clone()).collect())
        };
        let ports = (1..=self.attributes.phys_port_cnt).map(port).collect::<Result<_, _>>()?;
        Ok(DeviceFacts { name: self.name.clone(), ports })
    }

    fn port(&self, number: u8, gids: Vec<Gid>) -> Result<PortFacts, VerbsError> {
        // SAFETY: plain integers, for which zeros are a value.
        let mut found: abi::ibv_port_attr = unsafe { zeroed() };
        // SAFETY: the context is open, and there is room for the answer, of which the exported
        // function writes no more than the header's structure of rdma-core 16 had.
        let returned =
            unsafe { (self.library.query_port)(self.raw.as_ptr(), number, &raw mut found) };
        check(returned).map_err(|source| self.unanswered("port", source))?;
        Ok(PortFacts {
            number,
            state: port_state(found.state),
            link_layer: match found.link_layer {
                abi::IBV_LINK_LAYER_INFINIBAND => LinkLayer::InfiniBand,
                abi::IBV_LINK_LAYER_ETHERNET => LinkLayer::Ethernet,
                _ => LinkLayer::Unspecified,
            },
            lid: found.lid,
            // The least serves anywhere.
            active_mtu: Mtu::from_code(found.active_mtu).unwrap_or(Mtu::Bytes256),
            gids,
        })
    }

    /// The addresses in use of all ports, each with the number of its port.
    fn gids(&self) -> Result<Vec<(u32, Gid)>, VerbsError> {
        let Some(query_gid_table) = self.library.query_gid_table else {
            return Ok(sysfs::gids(&self.name));
        };
        // SAFETY: plain integers, for which zeros are a value.
        let mut entries = vec![unsafe { zeroed::<abi::ibv_gid_entry>() }; GIDS_MAX];
        // SAFETY: the context is open; there is room for as many entries of that size as is said.
        let returned = unsafe {
            query_gid_table(
                self.raw.as_ptr(),
                entries.as_mut_ptr(),
                entries.len(),
                0,
                size_of::<abi::ibv_gid_entry>(),
            )
        };
        let Ok(count) = usize::try_from(returned) else {
            let errno = i32::try_from(returned.unsigned_abs()).unwrap_or(libc::EIO);
            // More are in use than fit into one answer: sysfs has them one by one.
            let gids = sysfs::gids(&self.name);
            let source = io::Error::from_raw_os_error(errno);
            return if gids.is_empty() {
                Err(self.unanswered("GID table", source))
            } else {
                Ok(gids)
            };
        };
        let mut gids: Vec<_> =
            entries.iter().take(count).map(|entry| (entry.port_num, gid(entry))).collect();
        gids.sort_by_key(|(port, gid)| (*port, gid.index));
        Ok(gids)
    }

    /// False once the device has been removed. Nobody is told of that: traffic goes on, and the
    /// removal waits until the device is closed (kernel 6.1, rxe).
    #[must_use]
    pub fn is_present(&self) -> bool {
        self.file.as_ref().is_none_or(|file| file.exists())
    }

    /// Readable when there is an asynchronous event; nonblocking, for registration with a poller.
    #[must_use]
    pub fn async_events_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the context is open, and its descriptor with it, as long as `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw((*self.raw.as_ptr()).async_fd) }
    }

    /// The next asynchronous event, `None` when there is none now.
    ///
    /// # Errors
    /// [`VerbsError::Query`] when the device cannot be asked.
    pub fn next_async_event(&self) -> Result<Option<AsyncEvent>, VerbsError> {
        let element = abi::ibv_async_element { qp: ptr::null_mut() };
        let mut event = abi::ibv_async_event { element, event_type: 0 };
        // SAFETY: the context is open, and there is room for the event.
        let returned = unsafe { (self.library.get_async_event)(self.raw.as_ptr(), &raw mut event) };
        if returned != 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
                _ => Err(self.unanswered("events", error)),
            };
        }
        // SAFETY: the event was just taken and is not acknowledged, so that what it points to is
        // still there: destroying it waits for the acknowledgement.
        let decoded = unsafe { AsyncEvent::decode(&event) };
        // SAFETY: each event is acknowledged once, and not used afterwards.
        unsafe { (self.library.ack_async_event)(&raw mut event) };
        Ok(Some(decoded))
    }

    pub(super) fn library(&self) -> &'static Library {
        self.library
    }

    pub(super) fn as_ptr(&self) -> *mut abi::ibv_context {
        self.raw.as_ptr()
    }

    pub(super) fn cannot_create(&self, what: &'static str, source: io::Error) -> VerbsError {
        VerbsError::Create { what, device: self.name.clone(), source }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: what was made from the context held it and is gone, so it is closed once and last.
        let returned = unsafe { (self.library.close_device)(self.raw.as_ptr()) };
        if let Err(error) = check(returned) {
            tracing::warn!("RDMA device {} does not close: {error}", self.name);
        }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("name", &self.name).field("quirks", &self.quirks).finish()
    }
}

fn port_state(state: u32) -> PortState {
    match state {
        abi::IBV_PORT_DOWN => PortState::Down,
        abi::IBV_PORT_INIT => PortState::Initialising,
        abi::IBV_PORT_ARMED => PortState::Armed,
        // Deferred: the link trains anew and packets wait, for a short time.
        abi::IBV_PORT_ACTIVE | abi::IBV_PORT_ACTIVE_DEFER => PortState::Active,
        other => PortState::Other(other),
    }
}

fn gid(entry: &abi::ibv_gid_entry) -> Gid {
    Gid {
        index: entry.gid_index,
        address: entry.gid.raw.into(),
        kind: match entry.gid_type {
            abi::IBV_GID_TYPE_IB => GidKind::InfiniBand,
            abi::IBV_GID_TYPE_ROCE_V1 => GidKind::RoceV1,
            abi::IBV_GID_TYPE_ROCE_V2 => GidKind::RoceV2,
            other => GidKind::Other(other),
        },
        interface: interface_name(entry.ndev_ifindex),
    }
}

fn interface_name(index: u32) -> Option<String> {
    let mut name = [0u8; libc::IF_NAMESIZE];
    // SAFETY: there is room for the longest name and its zero.
    let found = unsafe { libc::if_indextoname(index, name.as_mut_ptr().cast()) };
    if index == 0 || found.is_null() {
        return None;
    }
    CStr::from_bytes_until_nul(&name).ok()?.to_str().ok().map(str::to_owned)
}

/// The file by which a device is opened.
fn device_file(context: *mut abi::ibv_context) -> Option<PathBuf> {
    // SAFETY: the context is open, so its device is there; the kernel's name in it ends with a zero
    // and does not change.
    let name = unsafe { CStr::from_ptr((*(*context).device).dev_name.as_ptr()) };
    let name = name.to_str().ok().filter(|name| !name.is_empty())?;
    Some(Path::new("/dev/infiniband").join(name))
}

/// Makes reads of `fd` return instead of waiting.
pub(super) fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    Ok(rustix::io::ioctl_fionbio(fd, true)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_user_verbs_is_told_from_another_failure() {
        let of = |errno| without_list(io::Error::from_raw_os_error(errno));
        assert!(matches!(of(libc::ENOSYS), VerbsError::NoKernelSupport));
        assert!(matches!(of(libc::ENOMEM), VerbsError::List(_)));
    }

    #[test]
    fn states_and_kinds_that_the_header_does_not_name_are_kept_as_numbers() {
        assert_eq!(port_state(4), PortState::Active);
        assert_eq!(port_state(77), PortState::Other(77));
        let raw = abi::ibv_gid { raw: [0; 16] };
        let entry = |gid_type| abi::ibv_gid_entry {
            gid: raw,
            gid_index: 3,
            port_num: 1,
            gid_type,
            ndev_ifindex: 1,
        };
        assert_eq!(gid(&entry(2)).kind, GidKind::RoceV2);
        assert_eq!(gid(&entry(9)).kind, GidKind::Other(9));
        assert_eq!(gid(&entry(2)).interface.as_deref(), Some("lo"));
    }
}
