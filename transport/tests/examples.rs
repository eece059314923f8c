//! The examples work: server and client against each other, from their own source files.

#[allow(dead_code)] // Its `main`.
#[path = "../examples/echo_client.rs"]
mod echo_client;
#[allow(dead_code)] // Its `main`.
#[path = "../examples/echo_server.rs"]
mod echo_server;
#[allow(dead_code)] // Not all of it is for these tests.
#[path = "common/proxy.rs"]
mod proxy;

use proxy::{Cutter, Proxy};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

const PAGES: u64 = 1000;

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// Ends the server also when an assertion fails.
struct Stops(Arc<AtomicBool>);

impl Drop for Stops {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `clients` with the address that the server knows of the client and the server's own; both
/// are those of proxies before them, if there is a `cutter`. Returns the pages that the server has
/// sent back.
fn served(cutter: Option<&Arc<Cutter>>, clients: impl FnOnce(SocketAddr, SocketAddr)) -> u64 {
    let mut server = echo_server::bind(any_port()).unwrap();
    // A port that the clients use one after the other.
    let client = echo_client::bind(any_port()).unwrap().listen_address();
    let proxy = |target| cutter.map(|cutter| Proxy::new(target, cutter));
    let proxies = (proxy(server.listen_address()), proxy(client));
    let seen = |proxy: &Option<Proxy>, own| proxy.as_ref().map_or(own, |proxy| proxy.address);
    let server_address = seen(&proxies.0, server.listen_address());
    let client_address = seen(&proxies.1, client);
    let stops = Stops(Arc::default());
    let stopped = Arc::clone(&stops.0);
    let thread = thread::spawn(move || {
        let goes_on = || !stopped.load(Ordering::Relaxed);
        echo_server::serve(&mut server, client_address, goes_on).map_err(|error| error.to_string())
    });
    clients(client, server_address);
    drop(stops);
    thread.join().unwrap().unwrap()
}

#[test]
fn every_page_that_the_client_sends_comes_back() {
    let sent = served(None, |listen, server| {
        let times = echo_client::echo(&mut echo_client::bind(listen).unwrap(), server, PAGES);
        let times = times.unwrap();
        assert_eq!(times.count(), PAGES);
        assert!(times.quantile_ns(0.5) > 0 && times.quantile_ns(0.5) <= times.quantile_ns(0.99));
    });
    assert_eq!(sent, PAGES);
}

#[test]
fn the_server_goes_on_when_a_link_is_cut() {
    let cutter = Cutter::new();
    // In the middle of a page.
    cutter.cut_after(PAGES / 3 * 8192);
    let sent = served(Some(&cutter), |listen, server| {
        let mut client = echo_client::bind(listen).unwrap();
        assert_eq!(echo_client::echo(&mut client, server, PAGES).unwrap().count(), PAGES);
        assert!(cutter.cuts.load(Ordering::SeqCst) > 0, "a link was cut");
    });
    assert_eq!(sent, PAGES, "none twice, none lost");
}

#[test]
fn the_server_goes_on_when_a_client_has_gone_and_comes_again() {
    let sent = served(None, |listen, server| {
        for _ in 0..2 {
            let mut client = echo_client::bind(listen).unwrap();
            assert_eq!(echo_client::echo(&mut client, server, PAGES).unwrap().count(), PAGES);
        }
    });
    assert_eq!(sent, 2 * PAGES);
}
