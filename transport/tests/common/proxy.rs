//! A TCP proxy that cuts all its connections after a number of bytes that the test chooses, in the
//! middle of a message or a page as it comes; or flips a bit there.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

/// What all connections of a test share: how many bytes may still pass, and who is to be cut.
#[derive(Debug, Default)]
pub(crate) struct Cutter {
    /// Bytes that may pass until the next cut.
    budget: AtomicU64,
    pub(crate) cuts: AtomicU64,
    /// Instead of the next cut a bit is flipped.
    flipping: AtomicBool,
    pub(crate) flips: AtomicU64,
    streams: Mutex<Vec<TcpStream>>,
    stopped: AtomicBool,
}

impl Cutter {
    pub(crate) fn new() -> Arc<Self> {
        let cutter = Self { budget: AtomicU64::new(u64::MAX), ..Self::default() };
        Arc::new(cutter)
    }

    /// The next cut comes after so many bytes, counted in both directions.
    pub(crate) fn cut_after(&self, bytes: u64) {
        self.budget.store(bytes, Ordering::SeqCst);
    }

    /// After so many bytes, counted in both directions, the next one passes with a bit changed.
    pub(crate) fn flip_after(&self, bytes: u64) {
        self.flipping.store(true, Ordering::SeqCst);
        self.budget.store(bytes, Ordering::SeqCst);
    }

    /// Flips a bit of `byte`; false when it is time for a cut instead.
    fn flip(&self, byte: &mut u8) -> bool {
        if !self.flipping.swap(false, Ordering::SeqCst) {
            return false;
        }
        *byte ^= 0x10;
        self.budget.store(u64::MAX, Ordering::SeqCst);
        self.flips.fetch_add(1, Ordering::SeqCst);
        true
    }

    /// Cuts every connection now.
    pub(crate) fn cut(&self) {
        self.budget.store(u64::MAX, Ordering::SeqCst);
        self.cuts.fetch_add(1, Ordering::SeqCst);
        for stream in self.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// How many of `wanted` bytes may pass; fewer: the time has come to cut.
    fn spend(&self, wanted: u64) -> u64 {
        let mut left = self.budget.load(Ordering::SeqCst);
        loop {
            if left == u64::MAX {
                return wanted;
            }
            let passed = left.min(wanted);
            let new = left - passed;
            match self.budget.compare_exchange(left, new, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return passed,
                Err(now) => left = now,
            }
        }
    }
}

/// Listens, and passes every connection on to `target`.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    cutter: Arc<Cutter>,
    acceptor: Option<JoinHandle<()>>,
}

impl Proxy {
    pub(crate) fn new(target: SocketAddr, cutter: &Arc<Cutter>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::clone(cutter);
        let acceptor = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if shared.stopped.load(Ordering::SeqCst) {
                    return;
                }
                if let Ok(onward) = TcpStream::connect(target) {
                    join(stream, onward, &shared);
                }
            }
        });
        Self { address, cutter: Arc::clone(cutter), acceptor: Some(acceptor) }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cutter.stopped.store(true, Ordering::SeqCst);
        self.cutter.cut();
        // The acceptor sees the flag once a last connection comes in.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

/// Copies between the two until one of them ends or is cut.
fn join(one: TcpStream, other: TcpStream, cutter: &Arc<Cutter>) {
    for stream in [&one, &other] {
        stream.set_nodelay(true).unwrap();
        cutter.streams.lock().unwrap().push(stream.try_clone().unwrap());
    }
    let (one_too, other_too) = (one.try_clone().unwrap(), other.try_clone().unwrap());
    for (mut from, mut to) in [(one, other), (other_too, one_too)] {
        let cutter = Arc::clone(cutter);
        std::thread::spawn(move || {
            let mut buffer = vec![0; 16 << 10];
            while let Ok(got @ 1..) = from.read(&mut buffer) {
                let mut passed = usize::try_from(cutter.spend(got as u64)).unwrap();
                if passed < got && cutter.flip(&mut buffer[passed]) {
                    passed = got;
                }
                let part = &buffer[..passed];
                let written = to.write_all(part);
                if part.len() < got {
                    cutter.cut();
                }
                if written.is_err() || part.len() < got {
                    break;
                }
            }
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
        });
    }
}
